"""How good a result is: estimates with intervals, distances between sets of pictures, agreement with the prompt."""

from __future__ import annotations

from suffuse.core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "CLIPScore": "clip",
        "DirectionalCLIP": "clip",
        "VendiScore": "diversity",
        "HighFrequencyShare": "diversity",
        "PrincipalFeatures": "principal",
        "ReaderFeatures": "features",
        "FrechetDistance": "frechet",
        "KernelDistance": "frechet",
        "MSE": "image",
        "PSNR": "image",
        "SSIM": "image",
        "InceptionFeatures": "inception",
        "LPIPS": "lpips",
        "Pictures": "pictures",
        "DensityCoverage": "precision_recall",
        "PrecisionRecall": "precision_recall",
        "ReaderAccuracy": "reader_accuracy",
        "ReaderDistance": "reader_distance",
        "Reference": "reference",
        "Operations": "operations",
        "evaluate": "report",
        "Estimate": "statistics",
        "StructureDistance": "structure",
        "paired": "timing",
        "Brittleness": "brittleness",
        "measure_brittleness": "brittleness",
    },
)
