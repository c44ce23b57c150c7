"""How the size of a run compares with the one that a network was trained at; what size-aware patches know of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..core.call import Call
from ..core.denoiser import Denoiser
from ..core.errors import BadInput, Refused


@dataclass(frozen=True)
class SizeContext:
    """Native and requested grid of a run, and how much of it is done.

    Attributes:
        native: rows and columns of a state at the size that the network was trained at.
        requested: of the states at hand.
        progress: share of the run's steps that is done; None outside of a run.
    """

    native: tuple[int, int]
    requested: tuple[int, int]
    progress: float | None = None

    @property
    def area(self) -> float:
        """Requested area in units of the native one."""
        return math.prod(self.requested) / math.prod(self.native)

    @property
    def side(self) -> float:
        """Side of a square of that area, in units of the native side."""
        return math.sqrt(self.area)

    @property
    def aspect(self) -> float:
        """Requested columns over rows."""
        return self.requested[1] / self.requested[0]

    def during(self, start: float, stop: float) -> bool:
        """Whether a run is in this part, start <= progress < stop."""
        return self.progress is not None and start <= self.progress < stop

    def grid(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of so many tokens of the requested picture: the division nearest to its proportions."""
        heights = [h for h in range(1, tokens + 1) if tokens % h == 0]
        best = min(heights, key=lambda h: abs(math.log(h * h * self.aspect / tokens)))
        return best, tokens // best

    @classmethod
    def of(cls, denoiser: Denoiser, x: Tensor) -> SizeContext:
        """Of states (B, C, H, W)."""
        grid = () if denoiser.sites is None else denoiser.sites.root.grid
        if len(grid) != 2 or x.ndim != 4:
            kind = type(denoiser).__name__
            raise BadInput(f"x of shape {tuple(x.shape)}: {kind} has no size; give pictures and their denoiser")
        return cls((grid[0], grid[1]), (x.shape[2], x.shape[3]))

    @classmethod
    def at(cls, call: Call) -> SizeContext:
        """Of a call; a patch that asks must have the root among its sites, where the state is seen."""
        if call.site.kind == "root":
            grid, x = call.site.grid, call["x"]
            if len(grid) != 2:
                raise Refused(f"{call.patch}: this network has no size of its own; use a network of pictures")
            progress = None if call.at is None else call.at.progress
            call.scratch[cls] = cls((grid[0], grid[1]), (x.shape[2], x.shape[3]), progress)
        return call.scratch[cls]
