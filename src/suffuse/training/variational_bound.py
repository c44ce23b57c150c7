"""The variational bound beside the simple loss: how networks learn the variance of their steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.errors import BadInput
from ..core.law import Normal, per_sample
from ..core.prediction import ONE, ZERO, Affine
from ..core.registry import method
from ..core.value import Coef, where
from ..processes.learned_variance import LearnedVariance, Ranged, frozen_mean
from .denoising import Draw, Extra, Times


@dataclass(frozen=True)
class Timesteps(Times):
    """t uniform among 1 / N, 2 / N, ..., 1, the times of a table.

    Args:
        N: training timesteps.
    """

    N: int = 1000

    def __call__(self, u: Tensor) -> Tensor:
        return (u * self.N).ceil().clamp(1, self.N) / self.N


@method(paper="adm", tags=("improved DDPM",))
@dataclass(frozen=True)
class VariationalBound(Extra):
    """L_hybrid = L_simple + 0.001 L_vlb, whose second term trains the variance and leaves the mean alone.

    L_vlb = N E_t KL(q(x_{t-1/N} | x_t, x0) || p(x_{t-1/N} | x_t)), and at the first timestep -log p(x0 | x_{1/N}) of
    data in `levels` steps; in bits an entry.

    Args:
        process: that of the network.
        scale: weight of L_vlb.
        levels: values that an entry of the data can have, evenly from -1 to 1.

    Example:
        >>> table = LearnedVariance("linear", 0.0001, 0.02)
        >>> Denoising(times=Timesteps(table.N), extra=(VariationalBound(table),))

    Reference: Nichol and Dhariwal, 2102.09672, as in Dhariwal and Nichol, 2105.05233.

    Differs from the paper: the probability of a level is exact, where their code approximates the normal law.
    """

    process: LearnedVariance = LearnedVariance("linear", 0.0001, 0.02)
    scale: float = 1e-3
    levels: int = 256

    name = "vlb"

    def __call__(self, draw: Draw, parts: nn.ModuleDict) -> Tensor:
        if not isinstance(draw.pred, Ranged):
            raise BadInput(
                f"VariationalBound: {type(draw.pred).__name__} has no variance; train a network under LearnedVariance"
            )
        assert isinstance(draw.x0, Tensor)
        process, t, p = self.process, draw.t, frozen_mean(draw.pred)
        step = 1.0 / process.N
        s = where(t > 1.5 * step, t - step, 0.0)
        mean, std = process.posterior(draw.x, p, t, s).mean, process.std(p, t, s)
        assert isinstance(mean, Tensor)
        exact = Affine(draw.x, process.alpha(t), process.sigma(t), draw.x0, (ONE, ZERO, ZERO))
        divergence = process.posterior(draw.x, exact, t, s).kl(Normal(mean, std))
        surprise = per_sample(-log_level(draw.x0, mean, std, self.levels))
        rows, entries = len(mean), mean[0].numel()
        first = s.tensor(rows).flatten(1)[:, 0] == 0.0 if s.tensor(rows).ndim > 1 else s.tensor(rows) == 0.0
        bound = torch.where(first.to(mean.device), surprise, divergence)
        return (process.N / (entries * math.log(2.0)) * bound).to(mean.dtype)


def log_level(x0: Tensor, mean: Tensor, std: Coef, levels: int) -> Tensor:
    """Log-probability that N(mean, std^2) rounds to x0, with `levels` values from -1 to 1; the ends take the tails."""
    half, deviation = 1.0 / (levels - 1), torch.as_tensor(std.to(mean.double()), dtype=torch.float64)
    centred = x0.double() - mean.double()
    above = torch.special.ndtr((centred + half) / deviation)
    below = torch.special.ndtr((centred - half) / deviation)
    above = torch.where(x0 > 1.0 - half, 1.0, above)
    below = torch.where(x0 < half - 1.0, 0.0, below)
    return torch.log((above - below).clamp(min=1e-12))
