"""Small networks of its own: where a library class would be too slow to train on a CPU."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(__name__, {"MLP": "residual_mlp", "MLPFamily": "residual_mlp"})
