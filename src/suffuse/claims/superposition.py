"""Claim of the superposition of diffusion models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.grid import Grid
from suffuse.core.guidance import Guidance
from suffuse.core.prediction import FLOW
from suffuse.core.process import Gaussian
from suffuse.core.reflection import Branch
from suffuse.core.value import Coef, flat
from suffuse.evaluation import statistics
from suffuse.evaluation.features import load_reader
from suffuse.guidance import CFG
from suffuse.guidance.directions import remembered
from suffuse.guidance.superposition import SuperDiffAND, SuperDiffOR, Superposing, Superposition
from suffuse.processes import VP, Flow
from suffuse.samplers import DDPM
from suffuse.testing.analytic import GaussianMixture
from suffuse.world import Caption
from suffuse.zoo.judge import judge

from . import microworld as mw
from .claim import Cell, Figure, Table, at_least, at_most, claim

MODES, DIMENSION, SAMPLES, T_MIN = 8, 16, 256, 0.01
PAIRS, STEPS = 48, 50


@dataclass(frozen=True)
class Averaging(Superposition):
    """kappa_i = 1 / M: the mean of the models, whatever their densities."""

    def weights(self, step: Superposing) -> Tensor:
        return torch.full_like(step.log_densities, 1.0 / step.log_densities.shape[1])


@claim(
    paper="superdiff",
    expect={
        "mixtures: correlation of log q_1 - log q_2 with the truth": at_least(0.99),
        "mixtures: error at 4 times the steps": at_most(0.6),
        "shapes: AND - averaging": at_least(0.0),
    },
    budget=300,
)
def superdiff(seed: int) -> Table:
    """Mixtures: two laws of 8 modes with means from N(0, I) and standard deviation 0.5 in 16 dimensions, whose
    densities are known at every time; 256 paths of their even superposition, DDPM from t = 1 to 0.01, variance
    preserving, and on rectified flow as rows. The estimate of log q_1 - log q_2 after 199 of 200 steps is compared with
    the truth: their correlation over paths, and the root mean square error at 800 steps as a share of that at 200 (one
    half is the order of the estimator). How far densities differ at the end under AND, against averaging, is in rows.

    `shapes`: 48 pairs of validation captions of one object that differ in shape and colour, 50 steps of DDPM at
    guidance 3. A picture scores for a caption the mean of the reader's scores of its shape and its colour, on whatever
    object, because pictures of one object can join what both ask for and cannot show both objects; a picture's score is
    the lower of the two captions'. AND against averaging the predictions (kappa = 1/2) with the same noise. OR, which
    chooses one, and the joint prompt "A and B", which shows two objects, are rows.
    """
    rows: list[Mapping[str, Cell]] = []
    found = {n: _mixtures(VP(), n, seed, rows) for n in (200, 800)}
    for n in (200, 800):
        _mixtures(Flow(), n, seed, rows)
    _apart(seed, rows)
    scores = _shapes(seed, rows)
    figures: dict[str, Figure] = {
        "mixtures: correlation of log q_1 - log q_2 with the truth": statistics.bootstrap(_correlation, *found[200]),
        "mixtures: error at 4 times the steps": _error_ratio(found[800], found[200]),
        "shapes: AND - averaging": statistics.difference(scores["AND"], scores["averaging"]),
        "shapes: AND - joint prompt": statistics.difference(scores["AND"], scores["joint prompt"]),
    }
    return Table(rows, figures)


def _laws(process: Gaussian, seed: int) -> tuple[GaussianMixture, GaussianMixture]:
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(MODES, DIMENSION, generator=generator) for _ in range(2))
    return tuple(GaussianMixture(m, process, std=0.5, kind=FLOW) for m in (one, other))  # type: ignore[return-value]


def _paths(process: Gaussian, kind: type[Superposition], n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(SAMPLES,) log q_1 - log q_2 at the last state that the models were asked about: estimated, and true."""
    laws = _laws(process, seed)
    start = torch.randn(SAMPLES, DIMENSION, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    run = sample(
        laws[0], start, sampler=DDPM(), grid=Grid(torch.linspace(1.0, T_MIN, n + 1)), guidance=kind((laws[1],), w=1.0),
        noise=seed, save=lambda run: (run.state.x, run.at and run.at.t),
    )  # fmt: skip
    log_q = remembered(run.state, kind, "log_densities")[:, -1]
    x, t = run.saved[-2]
    truth = [_log_density(law, x, t) for law in laws]
    return (log_q[:, 0] - log_q[:, 1]).numpy(), (truth[0] - truth[1]).numpy()


def _log_density(law: GaussianMixture, x: Tensor, t: Coef) -> Tensor:
    """(B,) log q_t(x)."""
    process = law.process
    assert isinstance(process, Gaussian)
    alpha, sigma = process.alpha(t).item(), process.sigma(t).item()
    spread = alpha**2 * law.variances + sigma**2
    away = (flat(x)[:, None].double() - alpha * law.means) ** 2
    logits = law.log_weights - 0.5 * away.sum(-1) / spread - 0.5 * DIMENSION * torch.log(2.0 * math.pi * spread)
    return logits.logsumexp(1)


def _mixtures(process: Gaussian, n: int, seed: int, rows: list[Mapping[str, Cell]]) -> tuple[np.ndarray, np.ndarray]:
    estimate, truth = _paths(process, Averaging, n, seed)
    rows.append({
        "on": f"mixtures, {type(process).__name__}",
        "arm": f"averaging, {n} steps",
        "correlation": statistics.bootstrap(_correlation, estimate, truth),
        "RMSE": statistics.bootstrap(_rmse, estimate, truth),
        "spread of the truth": float(truth.std()),
    })  # fmt: skip
    return estimate, truth


def _apart(seed: int, rows: list[Mapping[str, Cell]]) -> None:
    """How far the true densities of the two laws differ at the end."""
    for name, kind in (("AND", SuperDiffAND), ("averaging", Averaging)):
        truth = _paths(VP(), kind, 200, seed)[1]
        rows.append(
            {"on": "mixtures, VP", "arm": f"{name}, 200 steps", "|log q_1 - log q_2|": statistics.mean(abs(truth))}
        )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def _error_ratio(fine: tuple[np.ndarray, np.ndarray], coarse: tuple[np.ndarray, np.ndarray]) -> statistics.Estimate:
    errors = [(a - b) ** 2 for a, b in (fine, coarse)]
    return statistics.bootstrap(lambda f, c: float(np.sqrt(f.mean() / c.mean())), *errors)


def _pairs() -> tuple[list[Caption], list[Caption]]:
    """Captions of one object each, of another shape and colour in the second list."""
    plain = [c for c in mw.captions(210, objects=1) if c.background is None]
    first, second = plain[:PAIRS], []
    rest = plain[PAIRS:]
    for caption in first:
        own = caption.phrases[0]
        other = next(c for c in rest if c.phrases[0].shape != own.shape and c.phrases[0].colour != own.colour)
        rest.remove(other)
        second.append(other)
    return first, second


def _shapes(seed: int, rows: list[Mapping[str, Cell]]) -> dict[str, np.ndarray]:
    """(PAIRS,) the lower of both scores, by arm."""
    loaded, (first, second) = mw.model(), _pairs()
    other, alone = Branch(path="other"), [str(c) for c in first]
    joint = [f"{a} and {b}" for a, b in zip(first, second, strict=True)]
    given: dict[str, tuple[list[str], Guidance]] = {
        "AND": (alone, SuperDiffAND((other,), mw.GUIDANCE)),
        "averaging": (alone, Averaging((other,), mw.GUIDANCE)),
        "OR": (alone, SuperDiffOR((other,), mw.GUIDANCE)),
        "joint prompt": (joint, CFG(mw.GUIDANCE)),
    }
    beside = Cond({}, {"other": Cond(loaded.condition([str(c) for c in second]).entries)})
    scores = {}
    for name, (texts, guidance) in given.items():
        place = {**mw.place(loaded, first), "cond": loaded.condition(texts) | beside}
        run = sample(**place, sampler=DDPM(), steps=STEPS, guidance=guidance, noise=seed)
        with torch.no_grad():
            reading = load_reader(None)[0].read(loaded.decode(run.x).clamp(-1, 1))
        verdicts = [judge(reading, captions) for captions in (first, second)]
        each = [(0.5 * (v.shape.score + v.colour.score)).double().numpy() for v in verdicts]
        scores[name] = np.minimum(*each)
        rows.append({
            "on": "shapes",
            "arm": name,
            "lower score": statistics.mean(scores[name]),
            "first": statistics.mean(each[0]),
            "second": statistics.mean(each[1]),
            "evaluations": int(run.nfe[0]),
        })  # fmt: skip
    return scores
