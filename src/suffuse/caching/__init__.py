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
        "plan_acceleration": "planning",
        "PriorNoiseInjection": "faster_diffusion",
        "RAS": "ras",
        "TaylorSeer": "taylor_seer",
    },
)
