"""Large pictures told part by part what to show, by a grid of embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.registry import method
from ..core.step import Step
from ..noise.variation import spherical
from .multidiffusion import MultiDiffusion
from .tiles import Flat, Weight
from .views import View, Views, cut


@method(paper="ssl-guided-large")
@dataclass(frozen=True)
class RepresentationGuided(Views):
    """eps(x) = sum_k W_k eps(x[F_k], e_k) / sum_k W_k, e_k the embedding of a grid at the place of window F_k.

    e at (y, x), in windows, is slerp(slerp(e_00, e_01), slerp(e_10, e_11)) of the four around, by the parts of y and x
    behind the point; a straight line where two are parallel. A window that is a part of the grid has the part's own.
    "text" (B, rows, columns, d) is the grid, as the conditioner `Embeddings` makes it; all other conditions are cut as
    in `MultiDiffusion`, which this is without a grid. The paper's step is `DDIM(eta=1.0)`, its scale 3 `CFG(4)` here.

    Args:
        window: side of a window in entries of the state; None is the size that the network was trained at.
        stride: from one window to the next, in windows, above 0 and at most 1.
        interpolated: False gives each window the nearest embedding, for comparison.
        weight: of the entries of a window.
        batch: rows asked at once.

    Raises:
        BadInput: a stride out of range, or a grid that is not as many windows high and wide as the state.

    Example:
        >>> grid = EmbeddingGrid(embeddings_of(reference, features, side=64)[0])
        >>> model.generate(grid, height=256, width=256, guidance=RepresentationGuided() | CFG(4), sampler=DDIM(1.0))

    Reference: Graikos et al., Learned representation-guided diffusion models for large-image generation, 2312.07330.

    Differs from the paper: predictions are averaged in the network's own output, which for one time is the average of
    x0; embeddings of a wider region are not offered.
    """

    window: int | None = None
    stride: float = 0.25
    interpolated: bool = True
    weight: Weight = Flat()
    batch: int = 16

    def __post_init__(self) -> None:
        if not 0.0 < self.stride <= 1.0:
            raise BadInput(f"RepresentationGuided(stride={self.stride}): give a share of the window, above 0 up to 1")

    def views(self, size: tuple[int, int], window: tuple[int, int], at: Step) -> list[View]:
        return MultiDiffusion(stride=self.stride, weight=self.weight).views(size, window, at)

    def told(self, cond: Cond, view: View, size: tuple[int, int]) -> Cond:
        box = view.box
        parts = math.ceil(size[0] / box.height), math.ceil(size[1] / box.width)

        def here(told: Cond) -> Cond:
            entries, text = dict(told.entries), told.get("text")
            if text is not None and text.ndim == 4:
                if text.shape[1:3] != parts:
                    rows, columns = text.shape[1:3]
                    raise BadInput(
                        f"cond['text']: a grid of {rows}x{columns} embeddings for a picture of {parts[0]}x{parts[1]} "
                        "windows; give one for each window, or a picture of the grid's size"
                    )
                place = between if self.interpolated else nearest
                entries["text"] = place(text, box.top / box.height, box.left / box.width)[:, None]
            return Cond(entries, {name: here(other) for name, other in told.alt.items()}, told.spans)

        return cut(here(cond), view, size)


def between(grid: Tensor, y: float, x: float) -> Tensor:
    """(B, d): bilinear slerp of grids (B, rows, columns, d) at (y, x), rows and columns behind the first."""
    rows, columns = grid.shape[1:3]
    top, left = min(int(y), rows - 1), min(int(x), columns - 1)
    below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    upper, lower = (spherical(grid[:, row, left], grid[:, row, right], x - left) for row in (top, below))
    return spherical(upper, lower, y - top)


def nearest(grid: Tensor, y: float, x: float) -> Tensor:
    """(B, d): the nearest of grids (B, rows, columns, d)."""
    return grid[:, min(round(y), grid.shape[1] - 1), min(round(x), grid.shape[2] - 1)]
