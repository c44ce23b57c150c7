"""Tiles whose borders lie elsewhere in every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.registry import method
from ..core.step import Step
from .tiles import Box
from .views import View, Views, draws, parted


@method(paper="any-size-diffusion")
@dataclass(frozen=True)
class FSTD(Views):
    """Fast seamless tiled diffusion: tiles that do not overlap, on a grid with a new random offset in every step.

    Over the run everything is within some tile, which is overlap in time: no entry is evaluated more often than the
    parts at the edges ask. Those reuse the real entries beside them, so that every tile has the network's own size, and
    decide only what is theirs.

    Args:
        window: side of a tile in entries of the state; None is the size that the network was trained at.
        moving: False keeps the grid at the first corner, for comparison.
        batch: rows asked at once.

    Example:
        >>> model.upscale("circle.png", "a red circle", factor=4, method=DiffuseHigh(around=FSTD()))

    Reference: Zheng et al., Any-Size-Diffusion: Toward Efficient Text-Driven Synthesis for Any-Size HD Images,
    2308.16582.
    """

    window: int | None = None
    moving: bool = True
    batch: int = 16

    def views(self, size: tuple[int, int], window: tuple[int, int], at: Step) -> list[View]:
        u = draws(at, 2, "offset") if self.moving else [0.0, 0.0]
        offsets = [int(v * side) for v, side in zip(u, window, strict=True)]
        rows, columns = (parted(n, side, o) for n, side, o in zip(size, window, offsets, strict=True))
        suffix = f"@{at.i}" if self.moving else ""
        places = [(r, c) for r in rows for c in columns]
        return [_view(f"tile{k}{suffix}", r, c, size, window) for k, (r, c) in enumerate(places)]


def _view(
    name: str, rows: tuple[int, int], columns: tuple[int, int], size: tuple[int, int], window: tuple[int, int]
) -> View:
    """A view of the window's size that decides these rows and columns alone."""
    top, left = (min(part[0], n - side) for part, n, side in zip((rows, columns), size, window, strict=True))
    weight: Tensor = torch.zeros(window)
    weight[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left] = 1.0
    return View(name, Box(top, left, *window), weight)
