"""Spacings, until samplers/spacing.py has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.grid import Grid, Spacing


@dataclass(frozen=True)
class Leading(Spacing):
    """Every (N // n)-th timestep, `offset` later; the last step ends at time `final`."""

    offset: int = 0
    final: float = 0.0

    def grid(self, process: Any, n: int, shape: Sequence[int] = ()) -> Grid:
        k = torch.arange(n).flip(0) * (process.N // n) + self.offset
        end = torch.tensor([self.final], dtype=torch.float64)
        return Grid(torch.cat([(k + 1).double() / process.N, end]))


@dataclass(frozen=True)
class Trailing(Spacing):
    """n equal steps from 1 to 0."""

    def grid(self, process: Any, n: int, shape: Sequence[int] = ()) -> Grid:
        return Grid(torch.linspace(1, 0, n + 1, dtype=torch.float64))


Linear = Trailing


@dataclass(frozen=True)
class FlowShift(Trailing):
    """n equal steps."""

    shift: float = 1.0


@dataclass(frozen=True)
class FlowDynamicShift(Trailing):
    """n equal steps."""

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_length: int = 256
    max_length: int = 4096
