"""Textures: where an object shows its light tint. They stay inside a plain rim, which keeps the outline whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RIM = 0.1
"""Width of the rim around stripes, in radii."""

PERIOD = 0.62
"""Width of a stripe and its gap, in radii."""

DOT = 0.17
"""Radius of a dot, in radii."""

_RING = tuple((0.68 * math.cos(turn * math.pi / 3), 0.68 * math.sin(turn * math.pi / 3)) for turn in range(6))
DOTS: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0, 0), (-0.44, -0.44), (0.44, -0.44), (-0.44, 0.44), (0.44, 0.44)),
    ((0, 0), (-0.46, -0.46), (0.46, -0.46), (-0.46, 0.46), (0.46, 0.46)),
    ((0, -0.4), (-0.27, 0.09), (0.27, 0.09), (-0.52, 0.58), (0, 0.58), (0.52, 0.58)),
    ((0, 0.07), (0, -0.5), (-0.53, -0.11), (0.53, -0.11), (-0.34, 0.5), (0.34, 0.5)),
    _RING,
    ((0, -0.3), (-0.52, -0.38), (0.52, -0.38), (-0.29, 0.12), (0.29, 0.12), (0, 0.52)),
    ((0, 0), (0, -0.5), (0, 0.5), (-0.4, 0), (0.4, 0)),
    ((0, 0), (-0.6, 0), (0.6, 0), (0, -0.6), (0, 0.6)),
)
"""Centres of the dots of each shape in radii, in the order of `suffuse.world.scene.SHAPES`."""

_MOST = max(map(len, DOTS))
_FILLED = tuple(dots + dots[:1] * (_MOST - len(dots)) for dots in DOTS)


def pattern(x: Tensor, y: Tensor, distance: Tensor, scale: Tensor, texture: Tensor, shape: Tensor) -> Tensor:
    """How much of the tint shows (N, P, P) at points x, y and `distance` in radii, of `scale` (N, 1, 1) pixels each."""
    shown = torch.zeros_like(x)
    striped, dotted = ((texture == kind).nonzero()[:, 0] for kind in (1, 2))
    if len(striped):
        inside = torch.minimum(stripes(x[striped], y[striped]), -RIM - distance[striped])
        shown[striped] = (inside * scale[striped] + 0.5).clamp_(0, 1)
    if len(dotted):
        inside = dots(x[dotted], y[dotted], shape[dotted])
        shown[dotted] = (inside * scale[dotted] + 0.5).clamp_(0, 1)
    return shown


def stripes(x: Tensor, y: Tensor) -> Tensor:
    """Distance into the diagonal stripes."""
    phase = (x + y) * (math.sqrt(0.5) / PERIOD)
    return ((phase - phase.floor() - 0.5).abs() - 0.27) * PERIOD


def dots(x: Tensor, y: Tensor, shape: Tensor) -> Tensor:
    """Distance into the dots of `shape` (N,)."""
    centres = torch.tensor(_FILLED, device=x.device)[shape].permute(1, 2, 0)[..., None, None]
    square = (x - centres[0, 0]).square() + (y - centres[0, 1]).square()
    for centre in centres[1:]:
        square = torch.minimum(square, (x - centre[0]).square() + (y - centre[1]).square())
    return DOT - square.sqrt()
