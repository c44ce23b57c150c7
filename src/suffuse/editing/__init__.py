"""Changing pictures that exist."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(__name__, {"MaskedBlend": "masked_blend"})
