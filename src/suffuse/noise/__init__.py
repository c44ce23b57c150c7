"""The noise that a run starts from and draws: learned, shifted, chosen."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "GoldenNoise": "golden_noise",
        "NoisePairs": "golden_noise",
        "collect_pairs": "golden_noise",
        "AddedNoise": "interpolation",
        "NoiseDiffusion": "interpolation",
        "Slerp": "interpolation",
        "interpolate": "interpolation",
        "NPNet": "npnet",
        "OneMoreStep": "one_more_step",
        "StartNet": "one_more_step",
        "ReDenoise": "redenoising",
        "SeedBank": "seeds",
        "Correlated": "shifts",
        "MeanShift": "shifts",
        "OtherLaw": "shifts",
        "ScaleShift": "shifts",
        "ShiftedStart": "shifts",
        "Standardise": "shifts",
        "VariationSeed": "variation",
    },
)
