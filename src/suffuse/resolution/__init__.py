"""Pictures at other sizes than those that a model was trained on."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ARAD": "any_size",
        "AnySizeDiffusion": "any_size",
        "Bell": "tiles",
        "Blur": "bands",
        "Cosine": "tiles",
        "Cosines": "bands",
        "DemoFusion": "demofusion",
        "DiffuseHigh": "diffusehigh",
        "AugmentationReport": "augmentation",
        "GridPrior": "grid_prior",
        "augmentation_report": "augmentation",
        "DilatedSampling": "demofusion",
        "FSTD": "shifted_tiles",
        "Flat": "tiles",
        "KeepStatistics": "demofusion",
        "LowBand": "low_band",
        "MultiDiffusion": "multidiffusion",
        "SkipResidual": "demofusion",
        "MSWMSA": "window_attention",
        "RAUNet": "rau_net",
        "RepresentationGuided": "representation_guided",
        "SizeContext": "size_context",
        "Upsampler": "upsampling",
        "VariableSize": "variable_size",
        "Wavelet": "bands",
        "DegradationAwareTagger": "tagger",
        "LocalPrompts": "local_prompts",
        "TagReader": "tagger",
        "ZoomedIn": "zoomed_in",
        "attention_entropy": "entropy",
    },
)
