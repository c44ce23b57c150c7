"""Super-resolution, inpainting and inverse problems."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Bicubic": "degradation",
        "Degradation": "degradation",
        "Degraded": "degradation",
        "Holes": "degradation",
        "Pairs": "degradation",
        "PerceptualLoss": "perceptual",
        "RealWorld": "real_world",
        "ResShift": "resshift",
        "Restorer": "restorer",
        "adain": "colour_fix",
        "coarse_colours": "colour_fix",
    },
)
