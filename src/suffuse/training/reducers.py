"""From the losses of a batch to gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.errors import BadInput
from ..core.training import Loss, Mean, Reducer

__all__ = ["GroupMean", "Mean"]


@dataclass(frozen=True)
class GroupMean(Reducer):
    """Mean of the means of groups of noise level, so that crowded levels weigh no more than sparse ones.

    Args:
        cuts: inner borders of the intervals of t, rising.
    """

    cuts: tuple[float, ...] = (0.25, 0.5, 0.75)

    def backward(self, loss: Loss, params: Sequence[Tensor], parts: nn.ModuleDict) -> None:
        if loss.t is None or loss.t.ndim != 1:
            raise BadInput("reduce=GroupMean needs one time a sample in Loss.t; use Mean for this objective")
        group = torch.bucketize(loss.t, torch.tensor(self.cuts, dtype=loss.t.dtype, device=loss.t.device))
        losses = loss.per_sample
        count = losses.new_zeros(len(self.cuts) + 1).index_add(0, group, torch.ones_like(losses))
        total = losses.new_zeros(len(self.cuts) + 1).index_add(0, group, losses)
        (total / count.clamp(min=1)).sum().div((count > 0).sum()).backward()
