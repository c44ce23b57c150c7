"""How much of a shift of its start noise a model bears: a curve over the severity, and two numbers that sum it up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.registry import method


@dataclass(frozen=True)
class Brittleness:
    """What shifts of growing severity do to pictures of P prompts.

    Attributes:
        severities: (S,) rising.
        alignment: (S, P) scores of the pictures for their own prompts.
        unconditioned: (S,) share of the pictures that score no better than for a wrong prompt.
        distance: (S, P) root mean square to the same picture of the first severity.
    """

    severities: Tensor
    alignment: Tensor
    unconditioned: Tensor
    distance: Tensor

    @property
    def area(self) -> float:
        """Mean alignment over the severities, by trapezoids: 1 for a model that bears all of them at score 1."""
        span = self.severities[-1] - self.severities[0]
        return float(torch.trapezoid(self.alignment.mean(1), self.severities) / span)

    def critical(self, share: float = 0.5) -> float | None:
        """The severity at which alignment has fallen to this share of its first value, interpolated; None if never."""
        level, curve = share * self.alignment[0].mean(), self.alignment.mean(1)
        for k in range(1, len(curve)):
            if curve[k] <= level:
                drop = (curve[k - 1] - level) / (curve[k - 1] - curve[k])
                return float(self.severities[k - 1] + drop * (self.severities[k] - self.severities[k - 1]))
        return None


@method(paper="seed-shifts")
def measure_brittleness(
    pictures: Callable[[float], Tensor],
    score: Callable[[Tensor, Sequence[int]], Tensor],
    severities: Sequence[float],
) -> Brittleness:
    """Score pictures made from shifted noise against their own prompts and, as a control, against wrong ones.

    Args:
        pictures: severity -> (P, C, H, W), picture p of prompt p, from the same noise at every severity.
        score: (pictures, prompt of each) -> (P,) alignment, more is better.
        severities: rising, the first one unshifted; in standard deviations of the start noise where that applies.

    Example:
        >>> shifted = lambda delta: drawn(hooks=[ShiftedStart((MeanShift(delta),))])
        >>> report = measure_brittleness(shifted, judged, (0.0, 0.5, 1.0))
        >>> report.area, report.critical()

    Reference: Synthetic Shifts to Initial Seed Vector Exposes the Brittle Nature of Latent-Based Diffusion Models.
    """
    if len(severities) < 2 or list(severities) != sorted(set(severities)):
        raise BadInput(f"severities={list(severities)}: give two or more, rising, from the one without a shift")
    made = [pictures(severity) for severity in severities]
    own = list(range(len(made[0])))
    wrong = [*own[1:], own[0]]
    alignment = torch.stack([score(part, own) for part in made])
    control = torch.stack([score(part, wrong) for part in made])
    apart = torch.stack([(part - made[0]).flatten(1).square().mean(1).sqrt() for part in made])
    levels = torch.tensor(severities, dtype=torch.float64)
    return Brittleness(levels, alignment, (alignment <= control).double().mean(1), apart)
