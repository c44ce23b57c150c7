"""Rewards that are known at a few points only: models of them, and how far a state has left the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.process import Gaussian
from ..core.value import Coef

Reward = Callable[[Tensor], Tensor]
"""(B,) rewards of states (B, ...); a black box, which is only ever asked."""


class Regressor(ABC):
    """A way to model a reward from labelled states. A frozen dataclass."""

    @abstractmethod
    def fit(self, x: Tensor, r: Tensor) -> Reward:
        """A model of the rewards r (n,) of states x (n, ...), differentiable in the state."""


@dataclass(frozen=True, eq=False)
class Linear:
    """r(x) = g . (x - centre) + level.

    Attributes:
        g: of the shape of a state.
        centre: of the shape of a state.
        level: reward at the centre.
    """

    g: Tensor
    centre: Tensor
    level: float

    def __call__(self, x: Tensor) -> Tensor:
        return ((x - self.centre.to(x)) * self.g.to(x)).flatten(1).sum(1) + self.level


@dataclass(frozen=True)
class Ridge(Regressor):
    """Least squares with a penalty on the slope: min_g |r - g . x|^2 + n strength var |g|^2, in float64.

    Args:
        strength: of the penalty, in units of the mean variance of an entry.
    """

    strength: float = 0.01

    def fit(self, x: Tensor, r: Tensor) -> Linear:
        rows, mean = x.flatten(1).double(), r.double().mean()
        centre = rows.mean(0)
        z, y = rows - centre, r.double() - mean
        penalty = self.strength * (z**2).mean().clamp(min=1e-12) * len(z)
        # by the kernel where there are fewer states than entries
        if len(z) < z.shape[1]:
            g = z.T @ torch.linalg.solve(z @ z.T + penalty * torch.eye(len(z), dtype=z.dtype), y)
        else:
            g = torch.linalg.solve(z.T @ z + penalty * torch.eye(z.shape[1], dtype=z.dtype), z.T @ y)
        return Linear(g.view(x.shape[1:]).float(), centre.view(x.shape[1:]).float(), float(mean))


@dataclass(frozen=True)
class NeuralReward(Regressor):
    """A perceptron of two hidden layers.

    Args:
        width: of the hidden layers.
        steps, lr: of Adam on all labels at once.
        seed: of the first weights.
    """

    width: int = 128
    steps: int = 400
    lr: float = 3e-3
    seed: int = 0

    def fit(self, x: Tensor, r: Tensor) -> Reward:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed)
            net = nn.Sequential(
                nn.Flatten(), nn.Linear(x[0].numel(), self.width), nn.SiLU(),
                nn.Linear(self.width, self.width), nn.SiLU(), nn.Linear(self.width, 1), nn.Flatten(0),
            )  # fmt: skip
            mean, std = r.mean(), r.std().clamp(min=1e-6)
            adam = torch.optim.Adam(net.parameters(), self.lr)
            for _ in range(self.steps):
                adam.zero_grad()
                F.mse_loss(net(x.float()), (r.float() - mean) / std).backward()
                adam.step()
        net.eval().requires_grad_(False)
        return lambda z: net(z.float()) * std + mean


@dataclass(frozen=True, eq=False)
class LinearTarget:
    """log N(y; g . x0, std^2 + spread_t^2 |g|^2), a scorer of predicted clean states that asks g . x0 to be y.

    spread_t is how far x0 may still be from its prediction in a direction in which data have deviation `spread`. Along
    such a direction of Gaussian data the gradient is that of log p(y | x_t): looking ahead with it draws p(x | y).

    Args:
        g: of the shape of a state.
        y: wanted value of g . x0.
        process: of the denoiser.
        std: deviation that y may have.
        spread: deviation of the data along g.

    Reference: Guo et al., Gradient Guidance for Diffusion Models: An Optimization Perspective, 2404.14743.
    """

    g: Tensor
    y: float
    process: Gaussian
    std: float = 0.1
    spread: float = 1.0

    def __call__(self, x: Tensor, t: Coef, cond: Cond) -> Tensor:
        alpha, sigma, own = self.process.alpha(t), self.process.sigma(t), self.spread**2
        left = own * sigma * sigma / (own * alpha * alpha + sigma * sigma)
        variance = self.std**2 + left * float((self.g.double() ** 2).sum())
        error = (x * self.g.to(x)).flatten(1).sum(1) - self.y
        return -0.5 / variance * error**2


@dataclass(frozen=True, eq=False)
class Support:
    """The affine subspace in which data lie, as far as principal components tell.

    Attributes:
        centre: (n,) of flattened states.
        basis: (n, d) orthonormal.
    """

    centre: Tensor
    basis: Tensor

    @staticmethod
    def of(x: Tensor, rank: int | None = None, share: float = 0.99) -> Support:
        """The leading principal components of states (N, ...).

        Args:
            x: data.
            rank: how many; None takes the fewest that hold `share` of the variance.
            share: of the variance.
        """
        rows = x.flatten(1).double()
        centre = rows.mean(0)
        _, values, axes = torch.linalg.svd(rows - centre, full_matrices=False)
        power = (values**2).cumsum(0) / (values**2).sum()
        d = int((power < share).sum()) + 1 if rank is None else rank
        return Support(centre, axes[:d].T)

    def energy(self, x: Tensor) -> Tensor:
        """(B,) squared distance of states from the subspace: off-support energy."""
        rows = x.flatten(1).double() - self.centre
        return ((rows - rows @ self.basis @ self.basis.T) ** 2).sum(1)


def gradient_ascent(reward: Reward, x: Tensor, *, steps: int = 100, rate: float = 0.1) -> Tensor:
    """x_{k+1} = x_k + rate grad r(x_k): the baseline, which leaves the data wherever that raises a modelled reward.

    Args:
        reward: differentiable, such as a fitted `Regressor`.
        x: states (B, ...) to begin with.
        steps, rate: of the ascent.

    Returns:
        (steps + 1, B, ...), the whole way.
    """
    way = [x]
    for _ in range(steps):
        with torch.enable_grad():
            z = way[-1].detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(reward(z).sum(), z)
        way.append(way[-1] + rate * slope)
    return torch.stack(way)
