"""Diffusion Classifier: a conditional denoiser as a zero-shot classifier.

Reference: Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier, 2303.16203.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import BadInput
from ..core.noise import Keyed, Noise
from ..core.registry import method
from ..core.value import flat
from .error_field import SPACES, errors, stack, trials


@dataclass(frozen=True)
class Ranking:
    """Candidates ranked for each picture.

    Attributes:
        error: (B, K) mean error of each candidate over its evaluations; lower is likelier.
        stderr: (B, K) Monte-Carlo standard error of the difference to the best candidate, over shared evaluations;
            infinite where fewer than two are shared.
        count: (B, K) evaluations spent.
        size: entries of a state, by which errors are averaged.
    """

    error: Tensor
    stderr: Tensor
    count: Tensor
    size: int

    @property
    def best(self) -> Tensor:
        """(B,) index of the likeliest candidate: least error among those evaluated most."""
        last = self.count == self.count.amax(1, keepdim=True)
        return torch.where(last, self.error, torch.inf).argmin(1)

    @property
    def posterior(self) -> Tensor:
        """(B, K) p(c | x) = softmax(-E |eps - eps_theta|^2), uniform prior; the sum over entries as in the paper."""
        last = self.count == self.count.amax(1, keepdim=True)
        return torch.where(last, -self.error * self.size, -torch.inf).softmax(1)

    @property
    def nfe(self) -> Tensor:
        """(B,) network evaluations."""
        return self.count.sum(1)


@method(paper="diffusion-classifier")
@dataclass(frozen=True)
class DiffusionClassifier:
    """argmin_c E_{t, eps} | eps - eps_theta(x_t, c) |^2, with one set {(t_i, eps_i)} shared by all candidates.

    Stages spend evaluations where they decide: after each stage only the best candidates go on.

    Args:
        stages: ((evaluations in all, candidates kept), ...): the plan as data; ((100, 1),) is exhaustive.
        power: 2 for squared, 1 for absolute error.
        shared: same times and noise for all candidates; False shows what sharing is worth.
        space: "eps", or "value" for the network's own output: for flow models the velocity, which weights the noise
            error by 1 / (1 - t)^2.
        chunk: rows in one network call.

    Example:
        >>> ranking = DiffusionClassifier()(model.denoiser, latents, [model.conditioner.encode([c]) for c in captions])
        >>> captions[ranking.best[0]]

    Differs from the paper: times follow a van der Corput sequence, so that every stage's times are spread evenly.
    """

    stages: tuple[tuple[int, int], ...] = ((5, 5), (25, 1))
    power: int = 2
    shared: bool = True
    space: str = "eps"
    chunk: int = 64

    def __post_init__(self) -> None:
        totals = [n for n, _ in self.stages]
        if not totals or totals != sorted(totals) or min(totals) < 1 or min(k for _, k in self.stages) < 1:
            raise BadInput(
                f"stages={self.stages}: give (evaluations, candidates kept) with rising evaluations, ((5, 5), (25, 1))"
            )
        if self.power not in (1, 2) or self.space not in SPACES:
            raise BadInput(f"power={self.power}, space={self.space!r}: power is 1 or 2, space is {' or '.join(SPACES)}")

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x0: Tensor, candidates: Sequence[Cond], noise: Noise | int = 0) -> Ranking:
        """Rank candidates for pictures.

        Args:
            denoiser: conditional.
            x0: states (B, ...), encoded pictures.
            candidates: K conditions, each of one row (for all pictures) or of B rows (own captions for each picture).
            noise: Noise or seed.
        """
        noise = Keyed(noise) if isinstance(noise, int) else noise
        n, k = len(x0), len(candidates)
        cond = denoiser.prepare(stack(candidates, n))
        alive = torch.ones(n, k, dtype=torch.bool)
        trace: list[Tensor] = []  # one (B, K) each, NaN where not evaluated
        for _, (j, t) in zip(range(self.stages[-1][0]), trials(self.stages[-1][0]), strict=False):
            picture, candidate = alive.nonzero(as_tuple=True)
            eps = self._noise(x0, noise, j, candidate, picture)
            d = errors(denoiser, x0[picture], cond[candidate * n + picture], t, eps, space=self.space, chunk=self.chunk)
            value = torch.full((n, k), torch.nan, dtype=torch.float64)
            value[picture, candidate] = flat(d).double().abs().pow(self.power).mean(1)
            trace.append(value)
            for total, keep in self.stages:
                if j + 1 == total:
                    mean = torch.stack(trace).nanmean(0)
                    order = torch.where(alive, mean, torch.inf).argsort(1)
                    alive = torch.zeros_like(alive).scatter(1, order[:, :keep], True) & alive
        return _ranking(torch.stack(trace), flat(x0).shape[1])

    def _noise(self, x0: Tensor, noise: Noise, j: int, candidate: Tensor, picture: Tensor) -> Tensor:
        if self.shared:
            drawn = noise.normal(x0, range(len(x0)), f"trial/{j}")
            assert isinstance(drawn, Tensor)
            return drawn[picture]
        rows = [
            noise.normal(x0[b : b + 1], [b], f"trial/{j}/{c}")
            for b, c in zip(picture.tolist(), candidate.tolist(), strict=True)
        ]
        return torch.cat(rows)


def _ranking(trace: Tensor, size: int) -> Ranking:
    done = ~trace.isnan()
    count, error = done.sum(0), trace.nanmean(0)
    last = count == count.amax(1, keepdim=True)
    best = torch.where(last, error, torch.inf).argmin(1)
    gap = trace - trace.gather(2, best[None, :, None].expand(len(trace), -1, 1))
    both = ~gap.isnan()
    m = both.sum(0)
    mean = gap.nanmean(0)
    variance = torch.where(both, (gap - mean) ** 2, 0.0).sum(0) / (m - 1).clamp(min=1)
    return Ranking(error, torch.where(m > 1, (variance / m).sqrt(), torch.inf), count, size)


def text_image_score(
    denoiser: Denoiser, x0: Tensor, cond: Cond, *, evaluations: int = 25, noise: Noise | int = 0
) -> Tensor:
    """(B,) how much the text helps: error without text minus error with it, on shared noise; usable as a metric.

    Args:
        denoiser, x0: as for the classifier.
        cond: B rows with the alternative "null".
        evaluations: of each of the two conditions.
    """
    plan = DiffusionClassifier(((evaluations, 2),))
    ranking = plan(denoiser, x0, [cond, cond.branch("null")], noise)
    return ranking.error[:, 1] - ranking.error[:, 0]
