"""Ways of corrupting data: noise tables, formulas, discrete corruption."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Table": "tables",
        "Flow": "continuous",
        "VP": "continuous",
        "Cosine": "continuous",
        "VE": "continuous",
        "LearnedVariance": "learned_variance",
        "Absorbing": "categorical",
        "Uniform": "categorical",
    },
)
