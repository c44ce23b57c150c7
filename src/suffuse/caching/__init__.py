"""Less work per step: outputs reused between steps, tokens or blocks left out."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AutoDiffusion": "autodiffusion",
        "BAC": "bac",
        "DeepCache": "deepcache",
        "FasterDiffusion": "faster_diffusion",
        "FirstBlockCache": "first_block",
        "TaylorSeer": "taylor_seer",
        "PriorNoiseInjection": "faster_diffusion",
    },
)
