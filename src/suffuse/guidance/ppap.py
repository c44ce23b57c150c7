"""Practical plug-and-play: off-the-shelf networks that guide, after learning without data to read noisy states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.denoiser import EMPTY, Denoiser
from ..core.engine import sample
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.training import Phase
from ..core.value import Coef, Value
from ..networks.experts import Experts
from ..samplers.ancestral import DDIM
from ..training.knowledge_transfer import KnowledgeTransfer, Likeness, SoftLabels
from ..training.optimisers import AdamW, WarmupDecay
from ..training.sources import Shuffled
from ..training.trainer import Log, Trainer
from .gradient import GradientGuidance, LogLikelihood
from .scorers import ClassScore


@method(paper="ppap")
@dataclass(frozen=True)
class PPAP(Guidance):
    """eps_hat = eps - s sqrt(1 - abar_t) grad_{x_t} log p_n(t)(y | x_t), expert n(t) of an off-the-shelf network.

    Args:
        experts: made by `PPAP.fit`, or read by `Experts.load`.
        s: scale of the gradient.
        score: how what they read is compared with what is wanted: `ClassScore`, `MapScore` or `MaskScore`, or another
            function that makes a scorer of them.
        look_ahead: score the predicted clean state, as for latent models through `Decoded`.

    Example:
        >>> guidance = PPAP.fit(classifier, denoiser, (3, 64, 64), pictures=10_000, steps=5_000)
        >>> cond = Cond(alt={"target": Cond({"label": torch.tensor([207, 88])})})
        >>> sample(denoiser, (2, 3, 64, 64), sampler=DDIM(), steps=25, cond=cond, guidance=guidance)

    Reference: Go et al., Towards Practical Plug-and-Play Diffusion Models, 2212.05973.
    """

    experts: Experts
    s: float = 7.5
    score: Callable[[Experts], LogLikelihood] = ClassScore
    look_ahead: bool = False

    needs = Needs.GAUSSIAN | Needs.GRADIENT
    evaluations = 1

    def neutral(self) -> PPAP:
        """A scale of 0."""
        return replace(self, s=0.0)

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        return GradientGuidance(self.score(self.experts), self.s, self.look_ahead)(predict, x, t, cond, at)

    @classmethod
    def fit(
        cls,
        net: nn.Module,
        denoiser: Denoiser,
        shape: Sequence[int],
        *,
        count: int = 5,
        rank: int = 16,
        alpha: float = 8.0,
        likeness: Likeness = SoftLabels(),
        pictures: int | Tensor = 500_000,
        steps: int = 60_000,
        batch: int = 256,
        lr: float = 1e-4,
        cond: Cond = EMPTY,
        seed: int = 0,
        report: Callable[[Log], None] = lambda log: None,
    ) -> PPAP:
        """Experts of a network, from pictures that the generator makes and the network itself labels.

        Args:
            net: off-the-shelf, of clean pictures (B, C, H, W) in [-1, 1]; see `Experts`.
            denoiser: unconditional generator, which is to be guided.
            shape: (C, H, W) of a state.
            count, rank, alpha: of the experts.
            likeness: `SoftLabels` for classifiers and segmentation, `Regression` for depth.
            pictures: how many to make, or made ones from `synthesise`.
            steps, batch, lr: of the training of all experts together; in a step each sees batch / count pictures.
            cond: one row, for generators that need a condition, such as their null class.
            seed: of everything random.
            report: called with each Log.
        """
        x0 = synthesise(denoiser, pictures, shape, cond=cond, seed=seed) if isinstance(pictures, int) else pictures
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            experts = Experts(net, count, rank, alpha)
        optim = AdamW(lr, weight_decay=0.05, schedule=WarmupDecay(warmup=0, decay=1.0))
        phase = Phase(KnowledgeTransfer(denoiser.process, likeness), trains="experts", optim=optim)
        trainer = Trainer({"experts": experts}, phase, seed=seed)
        for log in trainer.fit(Shuffled(x0, EMPTY, min(batch, len(x0)), seed), steps):
            report(log)
        return cls(experts.eval().requires_grad_(False))


def synthesise(
    denoiser: Denoiser, n: int, shape: Sequence[int], *, cond: Cond = EMPTY, batch: int = 64, seed: int = 0
) -> Tensor:
    """(n, *shape) pictures of a generator, by 25 steps of DDIM.

    Args:
        denoiser: the generator.
        n: how many.
        shape: of one state.
        cond: one row, the same for all.
        batch: pictures in one run.
        seed: of their noise.
    """
    if n < 1:
        raise BadInput(f"pictures={n}: give how many to make, at least 1")
    made = []
    for rows in torch.arange(n).split(batch):
        run = sample(denoiser, (len(rows), *shape), sampler=DDIM(), steps=25, cond=cond.repeat(len(rows)),
                     noise=seed, samples=rows.tolist())  # fmt: skip
        made.append(run.x)
    return torch.cat(made)
