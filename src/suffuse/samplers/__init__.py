"""How a state moves along a grid: solvers of the ODE and the SDE, ancestral sampling, spacings."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DDIM": "ancestral",
        "DDPM": "ancestral",
        "Ancestral": "ancestral",
    },
)
