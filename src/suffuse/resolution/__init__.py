"""Pictures at other sizes than those that a model was trained on."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Bell": "tiles",
        "Cosine": "tiles",
        "Flat": "tiles",
        "MultiDiffusion": "multidiffusion",
        "MSWMSA": "window_attention",
        "RAUNet": "rau_net",
        "SizeContext": "size_context",
        "Upsampler": "upsampling",
        "VariableSize": "variable_size",
        "attention_entropy": "entropy",
    },
)
