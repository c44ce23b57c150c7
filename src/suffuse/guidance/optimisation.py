"""Optimisation by conditional sampling: states of high reward that are still data.

Reference: Chen, Mei, Fan, Wang, An Overview of Diffusion Models, 2404.07771, section 5; Yuan et al., Reward-Directed
Conditional Diffusion, 2307.07055; Guo et al., Gradient Guidance for Diffusion Models, 2404.14743.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import EMPTY, Denoiser, Network
from ..core.engine import sample
from ..core.errors import BadInput, Refused
from ..core.prediction import X0
from ..core.process import Gaussian
from ..core.registry import method
from ..core.sampler import Sampler
from ..core.training import Phase
from ..evaluation.frechet import frechet
from ..evaluation.moments import Moments
from ..networks.conditioned_mlp import ConditionedMLP, ConditionedMLPFamily
from ..processes.continuous import VP
from ..samplers.ancestral import DDIM
from ..training.denoising import Denoising
from ..training.followers import EMA
from ..training.optimisers import AdamW, WarmupDecay
from ..training.sources import Shuffled
from ..training.trainer import Log, Trainer
from .gradient import GradientGuidance
from .rewards import LinearTarget, Regressor, Reward, Ridge, Support

Build = Callable[[Sequence[int]], Network]
"""A network, untrained, for states of a shape; it reads "value" (B, 1)."""


def perceptron(shape: Sequence[int]) -> Network:
    """The default: a residual MLP that predicts x0."""
    return Network(ConditionedMLP(shape), ConditionedMLPFamily(), VP(), X0)


@dataclass(frozen=True, eq=False)
class Candidates:
    """States made for one target.

    Attributes:
        x: (n, ...).
        target: reward that they were made for.
        predicted: (n,) by the model of the reward.
        reward: (n,) by the reward itself, or None where it cannot be asked.
        off_support: (n,) squared distance from the data's subspace.
        shift: Frechet distance from the data.
    """

    x: Tensor
    target: float
    predicted: Tensor
    reward: Tensor | None
    off_support: Tensor
    shift: float

    @staticmethod
    def of(
        x: Tensor, target: float, model: Reward, rewards: Tensor | None, support: Support, data: Moments
    ) -> Candidates:
        """Measured states."""
        shift = frechet(Moments.of(x.flatten(1)), data)
        return Candidates(x, target, model(x), rewards, support.energy(x), shift)

    def row(self) -> Mapping[str, float]:
        """Means, for a table."""
        found = {"target": self.target, "predicted": float(self.predicted.double().mean())}
        if self.reward is not None:
            found["reward"] = float(self.reward.double().mean())
        return {**found, "off-support": float(self.off_support.mean()), "shift": self.shift}


@dataclass(frozen=True, eq=False)
class Optimised:
    """What `optimise` returns.

    Attributes:
        candidates: for each target, in order.
        denoiser: p(x | r), to draw more from with Cond({"value": (target - mean) / std}).
        model: of the reward.
        mean, std: of the modelled rewards of the data.
        support: of the data.
    """

    candidates: tuple[Candidates, ...]
    denoiser: Denoiser
    model: Reward
    mean: float
    std: float
    support: Support


@method(paper="overview-optimization")
def optimise(
    data: Tensor,
    labelled: Tensor,
    reward: Tensor | Reward,
    *,
    targets: Sequence[float] = (2.5,),
    n: int = 64,
    regressor: Regressor = Ridge(),
    noise: float = 0.1,
    build: Build = perceptron,
    steps: int = 3000,
    batch: int = 128,
    lr: float = 1e-3,
    sampler: Sampler = DDIM(),
    sample_steps: int = 50,
    support: Support | None = None,
    seed: int = 0,
    report: Callable[[Log], None] = lambda log: None,
) -> Optimised:
    """States of a wanted reward: model the reward on few labels, label much data by it, sample p(x | reward = target).

    r^ from (labelled, reward);  y = r^(x) + noise for all data;  denoiser of p(x | y);  x ~ p(x | y = target)

    Args:
        data: unlabelled states (N, ...).
        labelled: states (m, ...) whose rewards are known.
        reward: those rewards (m,), or the black box itself, which is then asked for `labelled` and for the result.
        targets: in standard deviations of the data's modelled reward above its mean.
        n: states for each target.
        regressor: how r^ is fitted.
        noise: standard deviation of what is added to labels, in standard deviations of r^.
        build: makes the network.
        steps, batch, lr: of its training.
        sampler, sample_steps: of the runs.
        support: of the data, for the off-support energy; default principal components of 99 % of the variance.
        seed: of everything random.
        report: called with each Log.

    Example:
        >>> found = optimise(molecules, assayed, affinities, targets=(1.0, 2.0, 3.0))
        >>> for c in found.candidates: print(c.row())

    Differs from the paper: any data and network; what the review states for a linear subspace and linear models is the
        default.
    """
    box, known = (None, reward) if isinstance(reward, Tensor) else (reward, reward(labelled))
    if known.shape != (len(labelled),) or len(labelled) < 2:
        raise BadInput(f"reward: shape {tuple(known.shape)} for {len(labelled)} labelled states; give one number each")
    model = regressor.fit(labelled, known)
    with torch.no_grad():
        labels = model(data).double()
    mean, std = float(labels.mean()), float(labels.std())
    if not std > 0.0:
        raise BadInput("reward: its model is the same for all data; give labels that differ, or another regressor")
    generator = torch.Generator().manual_seed(seed)
    told = ((labels - mean) / std + noise * torch.randn(len(data), generator=generator, dtype=torch.float64)).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(data.shape[1:])
    denoiser = _trained(network, data.float(), Cond({"value": told[:, None]}), steps, batch, lr, seed, report)
    support, moments = support or Support.of(data), Moments.of(data.flatten(1))
    found = []
    for target in targets:
        cond = Cond({"value": torch.full((n, 1), float(target))})
        x = sample(denoiser, (n, *data.shape[1:]), sampler=sampler, steps=sample_steps, cond=cond, noise=seed).x
        rewards = None if box is None else box(x)
        found.append(Candidates.of(x, float(target), model, rewards, support, moments))
    return Optimised(tuple(found), denoiser, model, mean, std, support)


def _trained(
    network: Denoiser,
    x0: Tensor,
    cond: Cond,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    report: Callable[[Log], None],
) -> Denoiser:
    phase = Phase(Denoising(), optim=AdamW(lr, schedule=WarmupDecay(warmup=50, decay=0.5)))
    trainer = Trainer({"model": network}, phase, {"ema": EMA(of="model", decay=0.998)}, seed=seed)
    for log in trainer.fit(Shuffled(x0, cond, min(batch, len(x0)), seed), steps):
        report(log)
    average = trainer.roles.ema
    assert isinstance(average, Denoiser)
    return average.eval().requires_grad_(False)


@method(paper="overview-optimization")
def ascend(
    denoiser: Denoiser,
    shape: Sequence[int],
    reward: Reward,
    *,
    rounds: int = 4,
    n: int = 64,
    stride: float = 1.0,
    std: float = 0.1,
    spread: float = 1.0,
    regressor: Ridge = Ridge(),
    sampler: Sampler = DDIM(),
    steps: int = 50,
    cond: Cond = EMPTY,
    refresh: int = 0,
    support: Support | None = None,
    data: Moments | None = None,
    seed: int = 0,
) -> tuple[Candidates, ...]:
    """States of rising reward by gradient guidance of a pre-trained denoiser, whose slope is estimated anew each round.

    g = -beta(t) grad_{x_t} (y - g^ . x0(x_t))^2  with g^ fitted to the rewards of the last round, y one stride further

    Args:
        denoiser: of the data; it is not changed.
        shape: of one state.
        reward: a black box, asked n times a round.
        rounds: after an unguided one.
        n: states in a round.
        stride: how far y lies above the last round's mean of g^ . x0, in deviations of the data along g^.
        std: deviation that y may have, in the same unit.
        spread: deviation of the data along g^.
        regressor: how g^ is fitted.
        sampler, steps, cond: of the runs; `cond` has one row.
        refresh: training steps of a copy of the denoiser on each guided round's states; 0 leaves the score as it is.
        support, data: of the data, for the report; default those of the unguided round.
        seed: of everything random.

    Returns:
        The states of each round, the unguided first.
    """
    process = denoiser.process
    if not isinstance(process, Gaussian):
        raise Refused(f"ascend: needs a Gaussian process, and {type(process).__name__} is none; use continuous data")
    guidance, target, found = None, float("nan"), list[Candidates]()
    for k in range(rounds + 1):
        x = sample(denoiser, (n, *shape), sampler=sampler, steps=steps, cond=cond.repeat(n), noise=seed + k,
                   guidance=guidance).x  # fmt: skip
        rewards = reward(x)
        model = regressor.fit(x, rewards)
        support, data = support or Support.of(x), data or Moments.of(x.flatten(1))
        found.append(Candidates.of(x, target, model, rewards, support, data))
        length = float(model.g.double().norm())
        if k == rounds or not length > 0.0:
            break
        one = spread * length
        target = float(rewards.double().mean()) + stride * one
        goal = float((x * model.g).flatten(1).sum(1).double().mean()) + stride * one
        guidance = GradientGuidance(LinearTarget(model.g, goal, process, std * one, spread), look_ahead=True)
        if refresh and k:
            own = copy.deepcopy(denoiser).requires_grad_(True)
            denoiser = _trained(own, x, cond.repeat(n), refresh, n, 1e-4, seed + k, lambda log: None)
    return tuple(found)
