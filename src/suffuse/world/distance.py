"""Signed distance functions of the shapes: negative inside, in units of the radius.

Formulas after I. Quilez, "2D distance functions" (https://iquilezles.org/articles/distfunctions2d/).
Each takes x to the right and y down from the centre of the bounding box; `EXTENTS` holds half its width and height.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

ROUNDING = 0.08


def circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.92


def square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.8, 0.8)


def triangle(x: Tensor, y: Tensor) -> Tensor:
    half, root = 0.92, math.sqrt(3)
    y = -y + half * 0.5 / root
    x, y = x.abs() - half, y + half / root
    over = x + root * y > 0
    x, y = torch.where(over, (x - root * y) / 2, x), torch.where(over, (-root * x - y) / 2, y)
    x = x - x.clamp(-2 * half, 0)
    return -torch.hypot(x, y) * y.sign() - ROUNDING


def star(x: Tensor, y: Tensor) -> Tensor:
    radius, inner = 0.99, 0.47
    cos, sin = math.cos(math.pi / 5), math.sin(math.pi / 5)
    x, y = x.abs(), -y + radius * (1 - cos) / 2
    for normal in (cos, -cos):
        fold = 2 * (normal * x - sin * y).clamp(min=0)
        x, y = x - fold * normal, y + fold * sin
    x, y = x.abs(), y - radius
    ax, ay = inner * sin, inner * cos - 1
    along = ((x * ax + y * ay) / (ax * ax + ay * ay)).clamp(0, radius)
    return torch.hypot(x - ax * along, y - ay * along) * (y * ax - x * ay).sign() - ROUNDING


def ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.68).abs() - 0.26


def heart(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs() / HEART, -y / HEART + 0.5 * (0.75 + math.sqrt(2) / 4)
    lobe = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    foot = 0.5 * (x + y).clamp(min=0)
    nearest = torch.minimum(x * x + (y - 1).square(), (x - foot).square() + (y - foot).square())
    return torch.where(x + y > 1, lobe, nearest.sqrt() * (x - y).sign()) * HEART


def diamond(x: Tensor, y: Tensor) -> Tensor:
    wide, high = DIAMOND
    x, y = x.abs(), y.abs()
    square = wide * wide + high * high
    along = ((wide * wide - high * high - 2 * (x * wide - y * high)) / square).clamp(-1, 1)
    outside = (x * high + y * wide - wide * high).sign()
    return torch.hypot(x - 0.5 * wide * (1 - along), y - 0.5 * high * (1 + along)) * outside - ROUNDING


def cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.94, 0.34), _box(x, y, 0.34, 0.94))


def _box(x: Tensor, y: Tensor, wide: float, high: float) -> Tensor:
    x, y = x.abs() - (wide - ROUNDING), y.abs() - (high - ROUNDING)
    return torch.hypot(x.clamp(min=0), y.clamp(min=0)) + torch.maximum(x, y).clamp(max=0) - ROUNDING


HEART = 1.62
DIAMOND = (0.70, 0.96)
Distance = Callable[[Tensor, Tensor], Tensor]
DISTANCES: tuple[Distance, ...] = (circle, square, triangle, star, ring, heart, diamond, cross)
"""In the order of `suffuse.world.scene.SHAPES`."""

EXTENTS: tuple[tuple[float, float], ...] = (
    (0.92, 0.92),
    (0.8, 0.8),
    (0.92 + ROUNDING, 0.92 * math.sqrt(3) / 2 + ROUNDING),
    (0.99 * math.cos(math.pi / 10) + ROUNDING, 0.99 * (1 + math.cos(math.pi / 5)) / 2 + ROUNDING),
    (0.94, 0.94),
    (HEART * (0.25 + math.sqrt(2) / 4), HEART * (0.75 + math.sqrt(2) / 4) / 2),
    (0.70 + ROUNDING, 0.96 + ROUNDING),
    (0.94, 0.94),
)
