"""A picture predicted view by view: guidances that ask the network about parts of the state and join what it says."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.step import Step
from ..core.value import Coef, Value, batch_size
from .size_context import SizeContext
from .tiles import Box


@dataclass(frozen=True, eq=False)
class View:
    """A part of the state that is asked about by itself.

    Args:
        name: path of its rows. A view that lies elsewhere in the next step has a suffix, "tile3@7", so that nobody
            finds the memory of one place at another.
        box: where it lies.
        weight: (box.height, box.width), what each entry counts where views overlap.
    """

    name: str
    box: Box
    weight: Tensor


Told: TypeAlias = Callable[[Cond, View, tuple[int, int]], Cond]


class Views(Guidance):
    """eps(x) = sum_k W_k eps(x[F_k], cond[F_k]) / sum_k W_k over the views k of a state, F_k where they lie.

    The mean is taken in the network's own output; for one state and one time it is that of eps, of x0 and of what a
    deterministic step makes of them alike, so every sampler keeps one history for the whole state. What is further in
    guides each view by itself: `MultiDiffusion() | CFG(5)`; its rows are on the paths "tile0/cond", "tile0/null", ...
    A view's condition is cut like the state (see `cut`), and is its own where there is an alternative of its name:
    `cond.with_alt(tile3=...)`.

    Attributes:
        window: side of a view in entries of the state; None is the size that the network was trained at.
        batch: rows of the state that one question has at most, whatever the picture's size.
    """

    window: int | None
    batch: int

    needs = Needs.GAUSSIAN

    @abstractmethod
    def views(self, size: tuple[int, int], window: tuple[int, int], at: Step) -> list[View]:
        """The views of a state of this size; windows are no larger than it."""

    def told(self, cond: Cond, view: View, size: tuple[int, int]) -> Cond:
        """The condition of a view of a state of this size."""
        return cut(cond, view, size)

    def windows(self, predict: Predict, x: Tensor) -> tuple[int, int]:
        """Height and width of a view, no larger than the state."""
        if not isinstance(x, Tensor) or x.ndim != 4:
            raise BadInput(f"{type(self).__name__}: the state is no picture (B, C, H, W); leave it out")
        native = SizeContext.of(predict.denoiser, x).native if self.window is None else (self.window, self.window)
        return min(native[0], x.shape[2]), min(native[1], x.shape[3])

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        views = self.views((x.shape[-2], x.shape[-1]), self.windows(predict, x), at)
        if len(views) == 1:
            return predict(x, t, self.told(cond.at(t), views[0], (x.shape[-2], x.shape[-1])))
        return joined(ask(predict, x, t, cond, views, self.batch, self.told), views, x)


def ask(
    predict: Predict, x: Tensor, t: Coef, cond: Cond, views: Sequence[View], batch: int, told: Told | None = None
) -> list[Any]:
    """The prediction of each view; views of equal size together, no more than `batch` rows at once but at least one.

    Args:
        told: the condition of a view, by default `cut`.
    """
    told = told or cut
    rows, size = batch_size(x), (x.shape[-2], x.shape[-1])
    cond = cond.at(t)
    most = max(1, batch // rows)
    found: dict[str, Any] = {}
    for group in _alike(views):
        for some in (group[k : k + most] for k in range(0, len(group), most)):
            part = Coef.cat([_time(t, v.box) for v in some], [rows] * len(some))
            conds = Cond.cat([told(cond, v, size) for v in some])
            p = predict.spread([v.name for v in some])(torch.cat([v.box.of(x) for v in some]), part, conds)
            found |= {v.name: p[rows * k : rows * (k + 1)] for k, v in enumerate(some)}
    return [found[v.name] for v in views]


def _alike(views: Sequence[View]) -> Iterable[list[View]]:
    def shape(view: View) -> tuple[int, int]:
        return view.box.height, view.box.width

    return [list(group) for _, group in groupby(sorted(views, key=shape), shape)]


def _time(t: Coef, box: Box) -> Coef:
    return Coef(box.of(t.d)) if isinstance(t.d, Tensor) and t.d.ndim == 4 else t


def joined(parts: Sequence[Any], views: Sequence[View], x: Tensor) -> Any:
    """One prediction at the state x (B, C, H, W) of those of its views."""

    def whole(values: Sequence[Any]) -> Any:
        if isinstance(values[0], Coef):
            inner = [v.d for v in values]
            return Coef(mean(inner, views, x)) if isinstance(inner[0], Tensor) and inner[0].ndim == 4 else values[0]
        return None if values[0] is None else mean(values, views, x)

    row = tuple(map(whole, zip(*(p.row for p in parts), strict=True)))
    fields = {name: whole([getattr(p, name) for p in parts]) for name in ("a", "s", "value", "b", "y")}
    return replace(parts[0], x=x, row=row, **fields)


def mean(values: Sequence[Tensor], views: Sequence[View], x: Tensor) -> Tensor:
    """Weighted mean of (B, C, h, w) over the views, of the size of x."""
    first = values[0]
    total = first.new_zeros((*first.shape[:-2], *x.shape[-2:]))
    weight = first.new_zeros((1, 1, *x.shape[-2:]))
    for value, view in zip(values, views, strict=True):
        w = view.weight.to(first)
        view.box.add(total, w * value)
        view.box.add(weight, w.expand(1, 1, -1, -1))
    return total / weight


# what a view is told --------------------------------------------------------------------------------------------------
def cut(cond: Cond, view: View, size: tuple[int, int]) -> Cond:
    """The condition of a view of a state of this size: its own if there is one, with maps cut and sizes changed.

    Entries (B, C, H, W) of the state's size, or of a multiple of it, are cut. "time_ids" gets the view's corner as that
    of a crop; "resolution" and "aspect_ratio" those of the view.
    """
    part = cond if view.box == Box(0, 0, *size) else _part(cond, view.box, size)
    own = view.name.partition("@")[0]
    return part.branch(own) if own in part.alt else part


def _part(cond: Cond, box: Box, size: tuple[int, int]) -> Cond:
    def entry(name: str, v: Any) -> Any:
        if name in _SIZES:
            return _SIZES[name](v, box, size)
        finer = v.shape[-1] // size[1] if isinstance(v, Tensor) and v.ndim == 4 else 0
        return box.of(v, finer) if finer and tuple(v.shape[-2:]) == (finer * size[0], finer * size[1]) else v

    entries = {name: entry(name, v) for name, v in cond.entries.items()}
    return Cond(entries, {name: _part(other, box, size) for name, other in cond.alt.items()}, cond.spans)


def _crop(ids: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    if box.every > 1:  # all of the picture, if coarsely
        return ids
    ids = ids.clone()
    ids[:, 2] += box.top * ids[:, 4] / size[0]
    ids[:, 3] += box.left * ids[:, 5] / size[1]
    return ids


def _resolution(v: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    return v * v.new_tensor([box.height / size[0], box.width / size[1]])


def _aspect(v: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    return v * (box.height / box.width) * (size[1] / size[0])


_SIZES: Mapping[str, Callable[[Tensor, Box, tuple[int, int]], Tensor]] = {
    "time_ids": _crop,
    "resolution": _resolution,
    "aspect_ratio": _aspect,
}


# where views lie ------------------------------------------------------------------------------------------------------
def overlapping(length: int, side: int, step: int, wrap: bool = False) -> list[int]:
    """First entries of windows that cover a length; with `wrap` the end goes on at the beginning."""
    if side >= length:
        return [0]
    return [*range(0, length, step)] if wrap else [*range(0, length - side, step), length - side]


def parted(length: int, side: int, offset: int) -> list[tuple[int, int]]:
    """(first, last + 1) of the parts into which borders at offset, offset + side, ... divide a length."""
    cuts = [0, *range(offset, length, side), length] if side < length else [0, length]
    return [(a, b) for a, b in zip(cuts, cuts[1:], strict=False) if a < b]


def draws(at: Step, n: int, tag: str) -> list[float]:
    """n uniform numbers of this step, the same for all samples of a run."""
    return at.but(samples=(0,)).noise(torch.zeros(1, n), tag, "uniform")[0].tolist()


def step_of(window: int, stride: float) -> int:
    """Entries from one window to the next."""
    return max(1, math.floor(window * stride))
