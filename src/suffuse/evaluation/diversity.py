"""How varied a set of pictures is, and how much fine detail its pictures have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from suffuse.core.errors import BadInput
from suffuse.core.metric import Estimate, Metric
from suffuse.core.registry import method

from . import statistics
from .features import Features
from .moments import Blocks, Moments
from .pictures import Pictures
from .scores import Scored


@method(tags=("metric",))
@dataclass(frozen=True)
class VendiScore(Metric):
    """exp(-sum_i l_i log l_i), l the eigenvalues of K / n, K_ij the cosine of features i and j: an effective number.

    1 for copies of one picture, n for pictures orthogonal to each other.

    Args:
        features: the feature function.
        blocks: that the jackknife of the interval leaves out in turn.

    Reference: Friedman and Dieng, The Vendi Score, 2210.02410.

    Differs from the paper: the eigenvalues are those of the d x d second moment, which are the same, so that pictures
    may stream.
    """

    features: Features
    blocks: int = 10

    def __post_init__(self) -> None:
        if self.blocks < 2:
            raise BadInput(f"blocks={self.blocks}: a jackknife leaves out one of several; give 2 or more")

    def init(self) -> Blocks:
        return Blocks.empty(self.blocks)

    def measure(self, batch: Pictures) -> Blocks:
        return Blocks.of(F.normalize(self.features(batch.images).double().cpu(), dim=1), self.blocks)

    def merge(self, first: Blocks, second: Blocks) -> Blocks:
        return first.merge(second)

    def result(self, state: Blocks) -> Mapping[str, Estimate]:
        without = state.without()
        if len(without) < 2:
            raise BadInput(f"images: {state.n} pictures; a Vendi score and its jackknife need 2 or more")
        estimate = statistics.jackknife(_vendi(state.whole), [_vendi(part) for part in without], n=state.n)
        protocol = f"{state.n} pictures, cosine in {self.features.name}; jackknife over {len(without)} blocks"
        return {"Vendi score": estimate.under(protocol)}


def _vendi(moments: Moments) -> float:
    values = torch.linalg.eigvalsh(moments.second).clamp(min=0)
    return math.exp(-torch.special.xlogy(values, values).sum().item())


@method(tags=("metric",))
@dataclass(frozen=True)
class HighFrequencyShare(Scored):
    """Share of the energy of a picture, its mean left out, at spatial frequencies of at least `cutoff`.

    Args:
        cutoff: radius in the plane of frequencies, as a fraction of the highest along one axis, 0.5 cycles a pixel.
    """

    cutoff: float = 0.5

    @property
    def name(self) -> str:
        return "high-frequency share"

    @property
    def protocol(self) -> str:
        return f"energy at {self.cutoff:g} of the axis' highest frequency and above, mean of the picture left out"

    def score(self, pictures: Pictures) -> Tensor:
        x = pictures.unit
        energy = torch.fft.fft2(x).abs().square().sum(1)
        energy[:, 0, 0] = 0.0
        fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in x.shape[2:])
        high = (fy[:, None].square() + fx.square()).sqrt() >= 0.5 * self.cutoff
        total = energy.sum((1, 2))
        # a plain picture has no detail, and its energy is rounding
        plain = total <= 1e-20 * x.numel()
        return torch.where(plain, 0.0, (energy * high).sum((1, 2)) / torch.where(plain, 1.0, total))
