"""Optimisers and learning rate schedules, as values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.training import Optimiser


class Schedule(ABC):
    """A factor of the learning rate over the steps of a run."""

    @abstractmethod
    def __call__(self, step: int, steps: int) -> float:
        """The factor at `step`, 0 <= step < steps."""


@dataclass(frozen=True)
class ConstantRate(Schedule):
    """1 throughout, after a linear rise over `warmup` steps."""

    warmup: int = 0

    def __call__(self, step: int, steps: int) -> float:
        return min(1.0, (step + 1) / (self.warmup + 1))


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """Linear rise over `warmup` steps, then half a cosine down to `floor`."""

    warmup: int = 0
    floor: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class WarmupDecay(Schedule):
    """Linear rise over `warmup` steps, a plateau, and a linear fall to `floor` over the last `decay` of the run.

    Args:
        warmup: steps.
        decay: fraction of the run, 0 to 1.
        floor: factor at the end.
    """

    warmup: int = 100
    decay: float = 0.35
    floor: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        length = self.decay * steps
        fall = min(1.0, (steps - step) / length) if length else 1.0
        return rise * (self.floor + (1 - self.floor) * fall)


@dataclass(frozen=True)
class AdamW(Optimiser):
    """Adam with decoupled weight decay, torch's fused kernel (on CPU 3.6 times as fast as foreach on a 4 M network).

    Args:
        lr: learning rate before the schedule.
        betas: decay of the two moments.
        weight_decay: per step, times the learning rate.
        eps: added to the root of the second moment.
        schedule: factor of the learning rate over the run.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    eps: float = 1e-8
    schedule: Schedule = field(default_factory=ConstantRate)

    def build(self, params: Sequence[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            params, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def rate(self, step: int, steps: int) -> float:
        return self.lr * self.schedule(step, steps)
