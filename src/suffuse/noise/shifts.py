"""Start noise moved away from N(0, I): how much of it does a model bear?

Reference: Synthetic Shifts to Initial Seed Vector Exposes the Brittle Nature of Latent-Based Diffusion Models.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadInput, nearest
from ..core.hook import Hook, StepFunction
from ..core.plugin import Needs
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value


class Shift(ABC):
    """z -> z' for start noise z ~ N(0, I), (B, C, H, W), each row by itself. A frozen dataclass."""

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """The shifted noise."""


@method(paper="seed-shifts")
@dataclass(frozen=True)
class MeanShift(Shift):
    """z + delta.

    Args:
        delta: in standard deviations of z.
        channel: the only one that is moved; None moves all.
    """

    delta: float
    channel: int | None = None

    def __call__(self, z: Tensor) -> Tensor:
        if self.channel is None:
            return z + self.delta
        moved = torch.zeros(z.shape[1], device=z.device, dtype=z.dtype)
        moved[self.channel] = self.delta
        return z + moved.view(-1, *[1] * (z.ndim - 2))


@method(paper="seed-shifts")
@dataclass(frozen=True)
class ScaleShift(Shift):
    """kappa z.

    Args:
        kappa: standard deviation of the shifted noise.
    """

    kappa: float

    def __call__(self, z: Tensor) -> Tensor:
        return self.kappa * z


LAWS = {
    "uniform": lambda u: (2.0 * u - 1.0) * math.sqrt(3.0),
    "laplace": lambda u: -torch.sign(u - 0.5) * torch.log1p(-2.0 * (u - 0.5).abs()) / math.sqrt(2.0),
    "bernoulli": lambda u: torch.sign(u - 0.5),
}
"""Quantile functions of laws with mean 0 and variance 1."""


@method(paper="seed-shifts")
@dataclass(frozen=True)
class OtherLaw(Shift):
    """Noise of another law with the same mean and variance: Q(Phi(z)), the same ranks as z.

    Args:
        law: "uniform", "laplace" or "bernoulli" (signs).
    """

    law: str

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise BadInput(f"OtherLaw(law={self.law!r}): no such law; {nearest(self.law, LAWS)}")

    def __call__(self, z: Tensor) -> Tensor:
        u = torch.special.ndtr(z.double()).clamp(1e-12, 1.0 - 1e-12)
        return LAWS[self.law](u).to(z.dtype)


@method(paper="seed-shifts")
@dataclass(frozen=True)
class Correlated(Shift):
    """Neighbours made alike by a Gaussian filter, then the mean square restored.

    Args:
        width: standard deviation of the filter in entries; 0 changes nothing.
    """

    width: float

    def __call__(self, z: Tensor) -> Tensor:
        if self.width == 0.0:
            return z
        reach = math.ceil(3 * self.width)
        at = torch.arange(-reach, reach + 1, dtype=z.dtype, device=z.device)
        kernel = torch.exp(-0.5 * (at / self.width) ** 2)
        kernel = (kernel / kernel.sum()).expand(z.shape[1], 1, 1, -1)
        for _ in range(2):  # along one axis, then along the other
            z = F.conv2d(F.pad(z, (reach, reach, 0, 0), "circular"), kernel, groups=z.shape[1]).mT
        return z / z.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1)


@method(paper="seed-shifts", tags=("repair",))
@dataclass(frozen=True)
class Standardise(Shift):
    """Mean 0 and variance 1 in every channel of every row again: takes back what moved the first two moments."""

    def __call__(self, z: Tensor) -> Tensor:
        axes = tuple(range(2, z.ndim))
        centred = z - z.mean(axes, keepdim=True)
        return centred / centred.square().mean(axes, keepdim=True).sqrt()


@method(paper="seed-shifts")
@dataclass(frozen=True)
class ShiftedStart(Hook):
    """x_1 = sigma_1 shift(x_1 / sigma_1) before the first step: the same z under every shift.

    Args:
        shifts: one after the other.

    Example:
        >>> model.generate("a red circle", hooks=[ShiftedStart((MeanShift(0.5), Standardise()))])

    Reference: Synthetic Shifts to Initial Seed Vector Exposes the Brittle Nature of Latent-Based Diffusion Models.

    Differs from the paper: the list of shifts is ours.
    """

    shifts: tuple[Shift, ...] = ()

    needs = Needs.GAUSSIAN

    def neutral(self) -> ShiftedStart:
        """No shifts."""
        return replace(self, shifts=())

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if at.first and self.shifts:
            sigma = at.process.sigma(at.t)
            z = 1.0 / sigma * x
            for shift in self.shifts:
                z = shift(z)
            x = sigma * z
        return step(x, at)
