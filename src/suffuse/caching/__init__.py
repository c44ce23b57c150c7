"""Less work per step: outputs reused between steps, tokens or blocks left out."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AutoDiffusion": "autodiffusion",
        "BAC": "bac",
        "CFGCache": "faster_cache",
        "DeeDiff": "deediff",
        "DeepCache": "deepcache",
        "EarlyExit": "deediff",
        "FasterCache": "faster_cache",
        "FasterDiffusion": "faster_diffusion",
        "FastKernels": "kernels",
        "FeatureInheritance": "feature_inheritance",
        "FirstBlockCache": "first_block",
        "FusedResnet": "kernels",
        "MultiUNetSwitching": "unet_switching",
        "PAB": "pyramid_broadcast",
        "PartiallyFused": "kernels",
        "PriorNoiseInjection": "faster_diffusion",
        "RAS": "ras",
        "TaylorSeer": "taylor_seer",
        "Tiled": "kernels",
        "TokenMerging": "token_merging",
        "Winograd": "kernels",
        "calibrated": "deediff",
        "plan_acceleration": "planning",
        "sensitivity_table": "feature_inheritance",
        "similarity_probe": "probe",
    },
)
