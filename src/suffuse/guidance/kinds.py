"""Predictions in a chosen form, so that those of different networks and guidances can be mixed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..core.prediction import ZERO, Affine
from ..core.value import Coef


def in_kind(p: Affine, row: tuple[Coef, ...]) -> Affine:
    """The same prediction with the value k_x x0 + k_e eps, for the row (k_x, k_e, ...) of a kind."""
    kx, ke = row[:2]
    return replace(p, value=p.combined(kx, ke), row=(kx, ke, ZERO), y=None)


def towards(p: Any, scale: float, a: Any, b: Any) -> Any:
    """p + scale (a - b): the prediction `p`, moved from `b` towards `a` and beyond, whatever their kinds."""
    if isinstance(p, Affine):
        a, b = (a, b) if a.row == b.row and a.y is None else (in_kind(a, a.row), in_kind(b, a.row))
        return p.add(scale * (a.value - b.value), of=a)
    return p.mix([1.0, scale, -scale], [p, a, b])
