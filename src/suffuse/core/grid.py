"""The times at which a run evaluates: a Grid, made by a Spacing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .errors import BadInput
from .value import Coef


@dataclass(frozen=True)
class Grid:
    """n + 1 times from start to end, in order; it may rise and fall.

    Args:
        times: float64 (n + 1,) or (n + 1, *clock), where `clock` broadcasts to a state (per token, per pixel).
    """

    times: Tensor

    def __post_init__(self) -> None:
        times = torch.as_tensor(self.times, dtype=torch.float64)
        if times.ndim == 0 or len(times) < 2:
            raise BadInput(
                f"steps={max(len(times) - 1 if times.ndim else 0, 0)}: a run needs at least one step; give steps >= 1"
            )
        object.__setattr__(self, "times", times)
        if not all(0.0 <= t <= 1.0 for t in self.values):
            raise BadInput(f"grid times must lie in [0, 1] (0 is data, 1 is noise), got {self.values[:4]}...")

    @property
    def n(self) -> int:
        """Number of steps."""
        return len(self.times) - 1

    @cached_property
    def values(self) -> list[float]:
        """All times as plain numbers, node by node."""
        return self.times.flatten().tolist()

    @cached_property
    def rounded(self) -> tuple[float, ...]:
        """`values` to ten digits: what fitted things compare."""
        return tuple(round(t, 10) for t in self.values)

    def node(self, i: int) -> Coef:
        """Time number i as a coefficient."""
        return self.nodes[i]

    @cached_property
    def nodes(self) -> list[Coef]:
        """Times as coefficients; a clock gets the leading batch axis it lacks."""
        return [Coef(t) for t in (self.values if self.times.ndim == 1 else self.times[:, None])]

    def steps(self, start: float | None = None, stop: float | None = None) -> Iterator[tuple[int, Coef, Coef]]:
        """(i, t, s) of every step between `start` and `stop`; both are inserted as nodes, i counts the full grid."""
        for i, (t, s) in enumerate(pairwise(self.nodes)):
            if (start is not None or stop is not None) and self.times.ndim == 1:
                hi, lo = (1.0 if start is None else start), (0.0 if stop is None else stop)
                down = s.item() <= t.item()
                top, bottom = (t.item(), s.item()) if down else (s.item(), t.item())
                top, bottom = min(top, max(hi, lo)), max(bottom, min(hi, lo))
                if top <= bottom:
                    continue
                t, s = (Coef(top), Coef(bottom)) if down else (Coef(bottom), Coef(top))
            yield i, t, s

    def reversed(self) -> Grid:
        """The same times in the opposite order: the grid of an inversion."""
        return Grid(self.times.flip(0))


class Spacing(ABC):
    """A rule that places n steps on a process."""

    @abstractmethod
    def grid(self, process: Any, n: int, shape: Sequence[int] = ()) -> Grid:
        """The grid of n steps; `shape` of one sample matters to resolution-dependent rules."""
