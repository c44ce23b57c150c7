"""Discrete corruption: absorbing mask and uniform replacement."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.prediction import Logits
from ..core.process import Categorical
from ..core.value import Coef, cos


@dataclass(frozen=True)
class Absorbing(Categorical):
    """Each entry is clean with probability keep(t) and else the mask, category K - 1.

    Args:
        K: number of categories, the mask included.
        schedule: "linear" (keep = 1 - t) or "cosine" (keep = cos(pi t / 2)).

    Reference: Austin et al., Structured Denoising Diffusion Models in Discrete State-Spaces, 2107.03006.
    """

    K: int = 2
    schedule: str = "linear"

    @property
    def mask(self) -> int:
        """Index of the mask."""
        return self.K - 1

    def keep(self, t: Coef) -> Coef:
        return 1.0 - t if self.schedule == "linear" else cos(t * (math.pi / 2))

    def limit(self, like: Tensor) -> Tensor:
        law = torch.zeros(self.K, dtype=torch.float64, device=like.device)
        law[self.mask] = 1.0
        return law

    def predict(self, x: Tensor, t: Coef, value: Tensor, kind: object = None) -> Logits:
        """Decided entries stay what they are; the mask itself is never clean."""
        value = value.masked_fill(torch.arange(self.K, device=value.device) == self.mask, -torch.inf)
        own = torch.where(torch.nn.functional.one_hot(x, self.K).bool(), 0.0, -torch.inf).to(value)
        return Logits(x, torch.where((x != self.mask)[..., None], own, value))


@dataclass(frozen=True)
class Uniform(Categorical):
    """Each entry is clean with probability 1 - t and else uniform over all K categories.

    Args:
        K: number of categories.

    Reference: Hoogeboom et al., Argmax Flows and Multinomial Diffusion, 2102.05379.
    """

    K: int = 2

    def keep(self, t: Coef) -> Coef:
        return 1.0 - t

    def limit(self, like: Tensor) -> Tensor:
        return torch.full((self.K,), 1.0 / self.K, dtype=torch.float64, device=like.device)
