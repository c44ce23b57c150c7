"""Variations of a picture: its start noise moved a little towards that of another seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.noise import Keyed, Noise
from ..core.registry import method
from ..core.value import Coef


@method(tags=("variation",))
@dataclass(frozen=True)
class VariationSeed(Noise):
    """z = sin((1 - s) theta) / sin(theta) z_A + sin(s theta) / sin(theta) z_B for the start noise, theta between both.

    The length of the noise stays between those of its ends, so that it is still as likely as noise. The noise of
    stochastic steps, and uniform numbers, are those of seed A. At s = 0 and s = 1 the start is that of A and of B, to
    the bit.

    Args:
        seed: A, of the picture.
        variation: B.
        strength: s, 0 to 1; 0.05 to 0.3 keeps most of the picture.

    Raises:
        BadInput: a strength outside of 0 to 1.

    Example:
        >>> model.generate("a red circle", noise=VariationSeed(7, variation=1, strength=0.2))
    """

    seed: int
    variation: int
    strength: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise BadInput(f"VariationSeed(strength={self.strength}): give a share of the way, 0 to 1")

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        a = Keyed(self.seed).draw(kind, like, samples, key)
        if kind != "normal" or not key.startswith("start"):
            return a
        b = Keyed(self.variation).draw(kind, like, samples, key)
        return spherical(a, b, self.strength)


def spherical(a: Tensor, b: Tensor, s: float) -> Tensor:
    """Spherical interpolation of rows (B, ...); a at s = 0 and b at s = 1, to the bit."""
    if s in (0.0, 1.0):
        return b if s else a
    rows = a.flatten(1).double(), b.flatten(1).double()
    theta = torch.arccos(torch.nn.functional.cosine_similarity(*rows).clamp(-1.0, 1.0))
    same = theta.sin() < 1e-6  # also where they are opposite
    sine = torch.where(same, torch.ones_like(theta), theta.sin())
    low, high = (torch.where(same, torch.full_like(theta, w), (w * theta).sin() / sine) for w in (1.0 - s, s))
    return Coef(low) * a + Coef(high) * b
