"""MultiDiffusion: pictures larger than the network's own, of overlapping windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.registry import method
from ..core.step import Step
from .tiles import Box, Flat, Weight
from .views import View, Views, draws, overlapping, step_of


@method(paper="multidiffusion")
@dataclass(frozen=True)
class MultiDiffusion(Views):
    """eps(x) = sum_k W_k eps(x[F_k]) / sum_k W_k over overlapping windows F_k of the network's own size.

    Every step goes where all windows together, as far as they overlap, want it to go (least squares). A picture no
    larger than the window is the plain run to the bit.

    Args:
        window: side of a window in entries of the state; None is the size that the network was trained at.
        stride: from one window to the next, in windows, above 0 and at most 1; the last one is flush with the edge.
        weight: of the entries of a window; `Flat()` is the paper's, `Bell()` and `Cosine()` hide the borders.
        jitter: borders of windows move in every step by up to a quarter of the overlap, so that they do not add up.
        wrap: the right edge goes on at the left one, as in panoramas of all directions.
        batch: rows asked at once.

    Raises:
        BadInput: a stride out of range.

    Example:
        >>> model.generate("a red circle", width=256, guidance=MultiDiffusion() | CFG(5))

    Reference: Bar-Tal et al., MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation, 2302.08113.

    Differs from the paper: predictions are averaged, not the states after the step; for samplers that are affine in
    the prediction, which all here are, that is the same, and stochastic ones draw one noise for the whole picture.
    """

    window: int | None = None
    stride: float = 0.5
    weight: Weight = Flat()
    jitter: bool = False
    wrap: bool = False
    batch: int = 16

    def __post_init__(self) -> None:
        if not 0.0 < self.stride <= 1.0:
            raise BadInput(f"MultiDiffusion(stride={self.stride}): give a share of the window, above 0 and at most 1")

    def views(self, size: tuple[int, int], window: tuple[int, int], at: Step) -> list[View]:
        (height, width), (tall, wide) = size, window
        down, right = step_of(tall, self.stride), step_of(wide, self.stride)
        corners = [(top, left) for top in overlapping(height, tall, down)
                   for left in overlapping(width, wide, right, self.wrap)]  # fmt: skip
        weight = self.weight(tall, wide)
        if not self.jitter:
            return [View(f"tile{k}", Box(*corner, tall, wide), weight) for k, corner in enumerate(corners)]
        u = draws(at, 2 * len(corners), "jitter")
        found = []
        for k, ((top, left), v, w) in enumerate(zip(corners, u[::2], u[1::2], strict=True)):
            y, rows = _moved(top, tall, (tall - down) // 4, height, v)
            x, columns = _moved(left, wide, (wide - right) // 4, width, w, self.wrap)
            found.append(View(f"tile{k}@{at.i}", Box(y, x, tall, wide), weight * torch.outer(rows, columns)))
        return found


def _moved(start: int, side: int, reach: int, length: int, u: float, wrap: bool = False) -> tuple[int, Tensor]:
    """Where a window begins that is moved by at most `reach`, and which of its entries count, 0.0 or 1.0.

    At an edge of the picture a window stays and ends earlier: its border moves, and everything stays covered.
    """
    counts, inner = torch.ones(side), round(u * reach)
    if side >= length:
        return start, counts
    if wrap:
        return (start + round((2 * u - 1) * reach)) % length, counts
    if start == 0:
        counts[side - inner :] = 0.0
    elif start == length - side:
        counts[:inner] = 0.0
    else:
        start = min(max(start + round((2 * u - 1) * reach), 0), length - side)
    return start, counts
