"""Claims of optimisation by diffusion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from suffuse.core.denoiser import EMPTY, Denoiser, Network
from suffuse.core.prediction import X0
from suffuse.core.training import Phase
from suffuse.evaluation import statistics
from suffuse.evaluation.moments import Moments
from suffuse.guidance.optimisation import ascend, optimise
from suffuse.guidance.rewards import NeuralReward, Support, gradient_ascent
from suffuse.networks.residual_mlp import MLP, MLPFamily
from suffuse.probing.statistical_rates import rates
from suffuse.processes.continuous import VP
from suffuse.training.denoising import Denoising
from suffuse.training.optimisers import AdamW, WarmupDecay
from suffuse.training.sources import Shuffled
from suffuse.training.trainer import Trainer

from .claim import Cell, Figure, Table, at_least, at_most, claim

AMBIENT, INTRINSIC, LABELS, UNLABELLED, N = 64, 8, 64, 4096, 256
TARGET = 2.5
STEPS = 1500


@claim(
    paper="overview-optimization",
    expect={
        "reward above the data's 95th percentile": at_least(0.0),
        "off-support energy / gradient ascent at equal reward": at_most(0.4),
        "score error, 1024 / 64 samples": at_most(1.0),
    },
    budget=400,
)
def overview_optimization(seed: int) -> Table:
    """Optimisation on an 8-dimensional subspace of 64 dimensions: normal data, a linear reward of standard deviation 1,
    known at 64 points up to noise of 0.1, and 4096 unlabelled points. Conditional sampling (an MLP, 1500 steps) at 0 to
    4 standard deviations, 256 states each; gradient guidance of a denoiser of the same data by slopes estimated from
    the rewards of each round; gradient ascent, from data, on an MLP of the reward fitted to the same labels, as long as
    its true reward is below that of the conditional samples.

    True reward, off-support energy (squared distance from the subspace), and the Frechet distance from the data, which
    grows with the target. Score error of another small MLP against the exact score, 64 and 1024 samples in 16
    dimensions, 4 intrinsic.
    """
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(AMBIENT, INTRINSIC, generator=generator, dtype=torch.float64))[0]
    slope = torch.nn.functional.normalize(torch.randn(INTRINSIC, generator=generator), dim=0)

    def states(n: int) -> Tensor:
        return torch.randn(n, INTRINSIC, generator=generator) @ basis.float().T

    def reward(x: Tensor) -> Tensor:
        return (x.float() @ basis.float()) @ slope

    data, labelled = states(UNLABELLED), states(LABELS)
    known = reward(labelled) + 0.1 * torch.randn(LABELS, generator=generator)
    support, moments = Support(torch.zeros(AMBIENT, dtype=torch.float64), basis), Moments.of(data)
    targets = (0.0, 1.0, TARGET, 4.0)
    found = optimise(data, labelled, known, targets=targets, n=N, steps=STEPS, support=support, seed=seed)
    rows: list[Mapping[str, Cell]] = [
        _row(f"conditional, target {c.target:g}", reward(c.x), c.off_support, c.shift) for c in found.candidates
    ]
    wanted = next(c for c in found.candidates if c.target == TARGET)
    high = float(torch.quantile(reward(data), 0.95))
    way = gradient_ascent(NeuralReward(seed=seed).fit(labelled, known), states(N), steps=300, rate=0.05)
    heights = torch.stack([reward(x).mean() for x in way])
    enough = (heights >= reward(wanted.x).mean()).nonzero()[:, 0]
    k = int(enough[0]) if len(enough) else int(heights.argmax())
    rows.append(_row(f"gradient ascent, {k} steps", reward(way[k]), support.energy(way[k]), None))
    figures: dict[str, Figure] = {
        "reward above the data's 95th percentile": statistics.mean(_numbers(reward(wanted.x) - high)),
        "95th percentile of the data's reward": high,
        "off-support energy / gradient ascent at equal reward": statistics.ratio(
            wanted.off_support.numpy(), support.energy(way[k]).numpy()
        ),
    }
    rounds = ascend(_unconditional(data, seed), (AMBIENT,), reward, rounds=3, n=N, stride=0.9, support=support,
                    data=moments, seed=seed)  # fmt: skip
    rows += [_row(f"gradient guidance, round {k}", c.reward, c.off_support, c.shift) for k, c in enumerate(rounds)]
    figures["reward of gradient guidance"] = statistics.mean(_numbers(rounds[-1].reward))
    figures["off-support energy of gradient guidance / gradient ascent"] = statistics.ratio(
        rounds[-1].off_support.numpy(), support.energy(way[k]).numpy()
    )
    few, many = rates((64, 1024), (16,), (4,), seed=seed)
    figures["score error, 1024 / 64 samples"] = many.score_error / few.score_error
    figures["sample distance, 1024 / 64 samples"] = many.distance / few.distance
    return Table(rows, figures)


def _unconditional(data: Tensor, seed: int) -> Denoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Network(MLP((AMBIENT,), 256, 3), MLPFamily(), VP(), X0)
    optim = AdamW(1e-3, schedule=WarmupDecay(warmup=50, decay=0.5))
    trainer = Trainer({"model": model}, Phase(Denoising(), optim=optim), seed=seed)
    for _ in trainer.fit(Shuffled(data, EMPTY, 128, seed), STEPS):
        pass
    return model.eval().requires_grad_(False)


def _row(name: str, reward: Tensor | None, energy: Tensor, shift: float | None) -> Mapping[str, Cell]:
    return {
        "way": name,
        "true reward": statistics.mean(_numbers(reward)),
        "off-support energy": statistics.mean(_numbers(energy)),
        "Frechet distance from the data": shift,
    }


def _numbers(values: Tensor | None) -> np.ndarray:
    assert values is not None
    return values.double().numpy()
