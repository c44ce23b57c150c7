"""Windows of a large picture that are told by themselves what to show."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.registry import method
from ..core.step import Step
from .tiles import Box, Flat, Weight
from .views import View, Views, cut, overlapping, step_of

WINDOWS = "windows"
"""The alternative of a condition that holds what each window is told."""


@method(paper="zoomed-in")
@dataclass(frozen=True)
class LocalPrompts(Views):
    """eps(x) = sum_k W_k eps(x[F_k], c_k, y_k) / sum_k W_k: window F_k has a prompt c_k and a control y_k of its own.

    They are `cond.alt["windows"]`: every entry (B, rows, columns, ...) has one row for each window and takes the place
    of that of the whole picture; entries that it lacks are cut as in `MultiDiffusion`, which this is without it. What
    windows are told is encoded once, before the run.

    Args:
        window: side of a window in entries of the state; None is the size that the network was trained at.
        stride: from one window to the next, in windows, above 0 and at most 1.
        weight: of the entries of a window.
        batch: rows asked at once.

    Raises:
        BadInput: a stride out of range, or entries for another number of windows.

    Example:
        >>> own = model.condition(["a red circle", "a blue square", None])["text"][None, None]
        >>> cond = model.condition([""]).with_alt(windows=Cond({"text": own}))
        >>> sample(model.denoiser, (1, 4, 16, 32), sampler=DDIM(), cond=cond, guidance=LocalPrompts() | CFG(5))

    Reference: Moser et al., Zoomed In, Diffused Out: Towards Local Degradation-Aware Multi-Diffusion for Extreme Image
    Super-Resolution, 2411.12072.
    """

    window: int | None = None
    stride: float = 0.5
    weight: Weight = Flat()
    batch: int = 16

    def __post_init__(self) -> None:
        if not 0.0 < self.stride <= 1.0:
            raise BadInput(f"LocalPrompts(stride={self.stride}): give a share of the window, above 0 and at most 1")

    def boxes(self, size: tuple[int, int], window: tuple[int, int]) -> list[list[Box]]:
        """Where windows lie in a state of this size, row by row."""
        tops, lefts = (overlapping(n, side, step_of(side, self.stride)) for n, side in zip(size, window, strict=True))
        return [[Box(top, left, *window) for left in lefts] for top in tops]

    def views(self, size: tuple[int, int], window: tuple[int, int], at: Step) -> list[View]:
        weight = self.weight(*window)
        boxes = [box for row in self.boxes(size, window) for box in row]
        return [View(f"tile{k}", box, weight) for k, box in enumerate(boxes)]

    def told(self, cond: Cond, view: View, size: tuple[int, int]) -> Cond:
        others = {name: other for name, other in cond.alt.items() if name != WINDOWS}
        part = cut(Cond(cond.entries, others, cond.spans), view, size)
        if WINDOWS not in cond.alt:
            return part
        height, width = view.box.height, view.box.width
        boxes = self.boxes(size, (height, width))
        counts = len(boxes), len(boxes[0])
        row, column = (math.ceil(first / step_of(side, self.stride)) for first, side in
                       ((view.box.top, height), (view.box.left, width)))  # fmt: skip

        def own(name: str, entry: Tensor) -> Tensor:
            if entry.shape[1:3] != counts:
                given = f"{entry.shape[1]}x{entry.shape[2]}"
                raise BadInput(
                    f"cond.alt['windows'][{name!r}]: for {given} windows, and a state of {size[0]}x{size[1]} has "
                    f"{counts[0]}x{counts[1]}; give one row for each"
                )
            return entry[:, row, column]

        return part | {name: own(name, entry) for name, entry in cond.alt[WINDOWS].items()}
