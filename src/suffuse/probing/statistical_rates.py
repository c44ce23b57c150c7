"""Statistical rates: how the error of a trained score, and of what it draws, depends on data and dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser, Network
from ..core.engine import sample
from ..core.errors import BadInput
from ..core.prediction import X0
from ..core.process import Gaussian
from ..core.registry import method
from ..core.training import Phase
from ..core.value import Coef
from ..evaluation.frechet import frechet
from ..evaluation.moments import Moments
from ..networks.residual_mlp import MLP, MLPFamily
from ..processes.continuous import VP
from ..samplers.ancestral import DDIM
from ..training.denoising import Denoising
from ..training.optimisers import AdamW, WarmupDecay
from ..training.sources import Shuffled
from ..training.trainer import Trainer

TIMES = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Where score errors are measured."""


@dataclass(frozen=True)
class Rate:
    """One trained score.

    Attributes:
        n: training states.
        ambient, intrinsic: D and d.
        score_error: E_t,x |eps(x_t) - eps*(x_t)|^2 / d, that is sigma_t^2 times the squared error of the score.
        distance: Frechet (squared Wasserstein-2) distance of its samples' Gaussian to the data's, over d.
        off_support: squared distance of samples to the subspace, over d.
    """

    n: int
    ambient: int
    intrinsic: int
    score_error: float
    distance: float
    off_support: float


def perceptron(ambient: int) -> Network:
    """The default: a residual MLP that predicts x0."""
    return Network(MLP((ambient,), 128, 2), MLPFamily(), VP(), X0)


@method(paper="overview-optimization")
def rates(
    samples: Sequence[int] = (64, 256, 1024),
    ambient: Sequence[int] = (16,),
    intrinsic: Sequence[int] = (4,),
    *,
    build: Callable[[int], Network] = perceptron,
    steps: int = 600,
    batch: int = 64,
    lr: float = 1e-3,
    drawn: int = 1024,
    seed: int = 0,
) -> tuple[Rate, ...]:
    """Score error and sample distance against n, D and d, on data x0 = A z, z ~ N(0, I_d), A orthonormal in R^D.

    The exact score is known: E[x0 | x_t] = alpha / (alpha^2 + sigma^2) A A^T x_t.

    Args:
        samples, ambient, intrinsic: values of n, D and d; all combinations are tried.
        build: makes an untrained network for D.
        steps, batch, lr: of its training.
        drawn: states that errors are measured on.
        seed: of everything random.

    Reference: Chen, Mei, Fan, Wang, An Overview of Diffusion Models, 2404.07771, section 4.
    """
    found = []
    for D in ambient:
        for d in intrinsic:
            if not 0 < d <= D:
                raise BadInput(f"intrinsic={d}: give 1 to the ambient dimension {D}")
            for n in samples:
                found.append(_rate(n, D, d, build, steps, batch, lr, drawn, seed))
    return tuple(found)


def _rate(n: int, D: int, d: int, build: Callable[[int], Network], steps: int, batch: int, lr: float, drawn: int,
          seed: int) -> Rate:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D, d, generator=generator, dtype=torch.float64))[0]
    x0 = (torch.randn(n, d, generator=generator, dtype=torch.float64) @ basis.T).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(D)
    optim = AdamW(lr, schedule=WarmupDecay(warmup=20, decay=0.5))
    trainer = Trainer({"model": model}, Phase(Denoising(), optim=optim), seed=seed)
    for _ in trainer.fit(Shuffled(x0, Cond(), min(batch, n), seed), steps):
        pass
    fresh = (torch.randn(drawn, d, generator=generator, dtype=torch.float64) @ basis.T).float()
    x = sample(model.eval(), (drawn, D), sampler=DDIM(), steps=25, noise=seed).x.double()
    off = ((x - x @ basis @ basis.T) ** 2).sum(1).mean() / d
    truth = Moments(drawn, torch.zeros(D, dtype=torch.float64), (drawn - 1) * (basis @ basis.T))
    distance = frechet(Moments.of(x), truth) / d
    return Rate(n, D, d, score_error(model, fresh, basis, generator) / d, distance, float(off))


@torch.no_grad()
def score_error(denoiser: Denoiser, x0: Tensor, basis: Tensor, generator: torch.Generator) -> float:
    """Mean over `TIMES` of E |eps(x_t) - eps*(x_t)|^2, on clean states x0 = A z with A = `basis` (D, d)."""
    process, total = denoiser.process, 0.0
    assert isinstance(process, Gaussian)
    for t in map(Coef, TIMES):
        alpha, sigma = process.alpha(t), process.sigma(t)
        x = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator)
        mean = alpha / (alpha * alpha + sigma * sigma) * (x.double() @ basis @ basis.T)
        exact = (x.double() - alpha * mean) * (1.0 / sigma)
        total += float(((denoiser(x, t).eps.double() - exact) ** 2).sum(1).mean())
    return total / len(TIMES)
