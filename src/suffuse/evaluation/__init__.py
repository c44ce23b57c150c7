"""How good a result is: estimates with intervals, distances between sets of pictures, agreement with the prompt."""

from __future__ import annotations

from suffuse.core.registry import lazy

__getattr__, __dir__ = lazy(__name__, {"Estimate": "statistics"})
