"""Copies that trail behind a trained role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.training import Follower

__all__ = ["EMA", "Copy"]


@dataclass(frozen=True)
class EMA(Follower):
    """Exponential moving average of the weights.

    own <- d own + (1 - d) of,  d = min(decay, (1 + step) / (warmup + step))

    Args:
        of: the role that is averaged.
        decay: 0 to 1.
        warmup: larger averages less of the first steps; 1 is no warm-up.
    """

    of: str = "model"
    decay: float = 0.999
    warmup: int = 10

    @torch.no_grad()
    def update(self, own: Sequence[Tensor], of: Sequence[Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (self.warmup + step))
        means = [i for i, tensor in enumerate(own) if tensor.is_floating_point()]
        torch._foreach_lerp_([own[i] for i in means], [of[i] for i in means], 1 - decay)
        for mine, theirs in zip(own, of, strict=True):
            if not mine.is_floating_point():
                mine.copy_(theirs)


@dataclass(frozen=True)
class Copy(Follower):
    """The role as it was at the last multiple of `every` steps: target network, opponent, rollout policy.

    Args:
        of: the role that is copied.
        every: steps between two copies.
    """

    of: str = "model"
    every: int = 1

    @torch.no_grad()
    def update(self, own: Sequence[Tensor], of: Sequence[Tensor], step: int) -> None:
        if (step + 1) % self.every == 0:
            torch._foreach_copy_(list(own), list(of))
