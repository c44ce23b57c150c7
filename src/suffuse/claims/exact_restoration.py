"""ResShift with an exact network: patches of pictures as a known law, restored from a coarse and noisy look at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.prediction import X0
from suffuse.evaluation import statistics
from suffuse.evaluation.statistics import Estimate
from suffuse.restoration import ResShift
from suffuse.restoration.degradation import enlarge
from suffuse.samplers.ancestral import DDPM
from suffuse.testing.analytic import GaussianMixture
from suffuse.world import WorldConfig, batch

from .claim import Cell, Figure, Table

N, PATCHES, SIDE, FACTOR = 1024, 1024, 8, 4
STD, TOLD = 0.02, 0.5
"""Deviation of the data around its patches, and of the noise of what is told of them."""
DIAL = {p: ResShift(p=p, m=0.04, T=15) for p in (0.3, 1.0, 3.0)}
FEWER, LITTLE, MUCH = ResShift(m=0.04, T=4), ResShift(0.125, m=0.04, T=15), ResShift(8.0, m=0.04, T=15)


@dataclass(frozen=True, eq=False)
class Known:
    """Clean patches, what is told of each, and how uncertain that leaves it.

    Args:
        law: means of the data's components (K, 3, h, w).
        clean: (N, 3, h, w).
        cond: "source", what is told, enlarged, and "evidence" (N, K), how likely it is of each component.
        variance: mean squared error of the posterior mean.
    """

    law: Tensor
    clean: Tensor
    cond: Cond
    variance: float

    @classmethod
    def draw(cls, seed: int) -> Known:
        """Patches of scenes of three objects, of which averages of 4 x 4 pixels are told, with noise."""
        views, _ = batch("train", 0, 64, seed=seed, config=WorldConfig(objects=(0.0, 0.0, 1.0)))
        cut = views.rgb.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, SIDE, SIDE)
        generator = torch.Generator().manual_seed(seed)
        law = cut[torch.randperm(len(cut), generator=generator)[:PATCHES]]
        coarse = F.avg_pool2d(law, FACTOR)
        which = torch.randint(PATCHES, (N,), generator=generator)
        told = coarse[which] + TOLD * torch.randn(N, *coarse.shape[1:], generator=generator)
        evidence = -0.5 * torch.cdist(told.flatten(1), coarse.flatten(1)).square() / TOLD**2
        clean = law[which] + STD * torch.randn(N, *law.shape[1:], generator=generator)
        posterior, means = evidence.softmax(1), law.flatten(1)
        second = posterior @ means.square() - (posterior @ means).square()
        cond = Cond({"source": enlarge(told, FACTOR), "evidence": evidence})
        return cls(law, clean, cond, float(second.mean()) + STD**2)

    def restored(self, process: ResShift, noise: int) -> Tensor:
        """(N, 3, h, w): by the exact denoiser."""
        denoiser = GaussianMixture(self.law, process, std=STD, kind=X0)
        parts = [
            sample(denoiser, (len(rows), *self.law.shape[1:]), sampler=DDPM(), cond=self.cond[rows], noise=noise,
                   samples=rows.tolist()).x
            for rows in torch.arange(N).split(256)
        ]  # fmt: skip
        return torch.cat(parts)


def dials(seed: int) -> Table:
    """Squared errors, and spreads over noises, of ResShift's dials, in units of the posterior's variance.

    A sample of the posterior has an error of 2 and a spread of 1; the posterior's mean, the best guess, 1 and 0.
    """
    known = Known.draw(seed)
    error, spread = {}, {}
    for process in (*DIAL.values(), FEWER, LITTLE, MUCH):
        one, other = (known.restored(process, seed + k) for k in (0, 1))
        error[process] = (one - known.clean).square().mean((1, 2, 3)).double().numpy() / known.variance
        spread[process] = 0.5 * (one - other).square().mean((1, 2, 3)).double().numpy() / known.variance
    rows: list[Mapping[str, Cell]] = [
        {"network": "exact", "arm": str(p), "error": statistics.mean(error[p]), "spread": statistics.mean(spread[p])}
        for p in error
    ]

    def change(values: Mapping[ResShift, np.ndarray], before: ResShift, after: ResShift) -> Estimate:
        return statistics.difference(values[after], values[before])

    middle, rises = DIAL[0.3], list(pairwise(DIAL.values()))
    figures: dict[str, Figure] = {
        "exact: largest change of error as p rises": max((change(error, *r) for r in rises), key=lambda c: c.mean),
        "exact: largest change of spread as p rises": max((change(spread, *r) for r in rises), key=lambda c: c.mean),
        "exact: change of error from 15 to 4 steps": change(error, middle, FEWER),
        "exact: change of spread from 15 to 4 steps": change(spread, middle, FEWER),
        "exact: change of spread from kappa 1/8 to 2": change(spread, LITTLE, middle),
        "exact: change of spread from kappa 2 to 8": change(spread, middle, MUCH),
    }
    return Table(rows, figures)
