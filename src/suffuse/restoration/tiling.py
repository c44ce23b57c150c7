"""Large pictures tile by tile, with the same noise where tiles overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.noise import Noise


@dataclass(frozen=True)
class Box:
    """A tile of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: Tensor) -> Tensor:
        """The part of (B, C, H, W) within it; a view."""
        return picture[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Cut(Noise):
    """The part of a whole picture's noise that falls into a tile.

    Args:
        inner: of the whole picture.
        size: (H, W) of the whole picture's state.
        box: the tile, in entries of the state.
    """

    inner: Noise
    size: tuple[int, int]
    box: Box

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        whole = like.new_empty(()).expand(*like.shape[:-2], *self.size)
        return self.box.of(self.inner.draw(kind, whole, samples, key))


def by_tiles(run: Callable[[Box], Tensor], like: Tensor, side: int, overlap: int) -> Tensor:
    """A picture of the shape of `like` (B, C, H, W) made of overlapping square tiles, blended by a Gaussian window.

    Args:
        run: makes the tile of a box, (B, C, box.height, box.width).
        like: for shape, dtype and device.
        side, overlap: in pixels, overlap < side.
    """
    if not 0 <= overlap < side:
        raise BadInput(f"tile={side}, overlap={overlap}: a tile must be larger than the overlap, which is 0 or more")
    height, width = like.shape[-2:]
    tall, wide = min(side, height), min(side, width)
    window = torch.outer(_bell(tall), _bell(wide)).to(like)
    total, weight = torch.zeros_like(like), torch.zeros_like(like[:1, :1])
    for top in _starts(height, tall, side - overlap):
        for left in _starts(width, wide, side - overlap):
            box = Box(top, left, tall, wide)
            box.of(total).add_(window * run(box))
            box.of(weight).add_(window)
    return total / weight


def _starts(length: int, side: int, step: int) -> list[int]:
    """First pixels of tiles that cover a length, the last one flush with its end."""
    return [*range(0, length - side, step), length - side]


def _bell(n: int) -> Tensor:
    return torch.exp(-2 * torch.linspace(-1, 1, n) ** 2)
