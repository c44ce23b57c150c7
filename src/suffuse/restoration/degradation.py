"""Seeded degradations on tensors, which record what they drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.noise import Noise


@dataclass(frozen=True)
class Degraded:
    """A degraded batch y, and the parameters that were drawn for each row: truth for estimators."""

    y: Tensor
    drawn: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Bicubic:
    """Antialiased bicubic reduction by `factor`, with optional noise; back to size by bicubic interpolation if `same_size`.

    Args:
        factor: whole-number reduction.
        noise: standard deviation of added Gaussian noise on values in [-1, 1]; a pair is a range, drawn uniformly.
        same_size: return y enlarged to the input's size.
    """

    factor: int = 4
    noise: tuple[float, float] = (0.0, 0.0)
    same_size: bool = True

    def draw(self, x: Tensor, noise: Noise, samples: Sequence[int]) -> Degraded:
        """Degrade pictures (B, C, H, W) in [-1, 1]."""
        y = F.interpolate(x, scale_factor=1 / self.factor, mode="bicubic", antialias=True)
        low, high = self.noise
        level = low + (high - low) * noise.uniform(torch.empty(len(x), 1), samples, "degrade/level")[:, 0]
        if high > 0:
            y = y + level[:, None, None, None] * noise.normal(y, samples, "degrade/noise")
        return Degraded(enlarge(y, self.factor) if self.same_size else y, {"noise": level})


def enlarge(y: Tensor, factor: int) -> Tensor:
    """Bicubic interpolation by a whole factor, values kept in [-1, 1]."""
    return F.interpolate(y, scale_factor=float(factor), mode="bicubic").clamp(-1, 1)


@dataclass(frozen=True)
class Holes:
    """Rectangular holes, filled with 0; the mask (1 where known) is among what was drawn.

    Args:
        share: side of the hole as a share of the picture's.
    """

    share: float = 0.4

    def draw(self, x: Tensor, noise: Noise, samples: Sequence[int]) -> Degraded:
        """Cut one hole into each picture (B, C, H, W)."""
        n, _, height, width = x.shape
        corner = noise.uniform(torch.empty(n, 2), samples, "degrade/hole") * (1 - self.share)
        rows, columns = torch.arange(height) / height, torch.arange(width) / width
        inside_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + self.share)
        inside_columns = (columns >= corner[:, 1:]) & (columns < corner[:, 1:] + self.share)
        mask = 1.0 - (inside_rows[:, :, None] & inside_columns[:, None, :]).float()[:, None]
        return Degraded(x * mask, {"mask": mask})
