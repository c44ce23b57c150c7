"""The claim of W2SD: a step and back under two settings, before every step of a run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.denoiser import Denoiser, Network
from suffuse.core.engine import sample
from suffuse.core.guidance import Guidance
from suffuse.core.hook import Hook
from suffuse.core.prediction import FLOW, X0
from suffuse.core.process import Gaussian
from suffuse.core.reflection import Branch
from suffuse.core.training import Phase
from suffuse.evaluation import statistics
from suffuse.guidance.cfg import CFG
from suffuse.guidance.reflection import W2SD
from suffuse.networks.residual_mlp import MLP, MLPFamily
from suffuse.processes.continuous import VP, Flow
from suffuse.samplers.ancestral import DDIM, Euler
from suffuse.testing.analytic import GaussianMixture
from suffuse.training.denoising import Denoising
from suffuse.training.followers import EMA
from suffuse.training.optimisers import AdamW, WarmupDecay
from suffuse.training.sources import Shuffled
from suffuse.training.trainer import Trainer
from suffuse.zoo.recipes import digits as recipe

from . import digits
from . import microworld as mw
from .claim import Cell, Estimate, Figure, Table, at_most, claim

SAMPLES, FINE = 4000, 50
"""Samples and steps on the mixture."""

EARLY, TRAINED, SEEDS, STEPS = 200, 1200, 3, 32
"""Digits: training steps of the weak and of the strong network, training seeds, sampling steps."""

TRIALS, CAPTIONS, COARSE = 40, 96, 16
"""Validation captions left to trials of settings, captions and steps on `shapes`."""


@claim(
    paper="w2sd",
    expect={
        "mixture: share error / strong": at_most(0.65),
        "mixture, flow: share error / strong": at_most(0.65),
        "digits: Frechet distance / strong": at_most(0.95),
        "shapes: reader error / strong": at_most(0.95),
    },
    budget=600,
)
def w2sd(seed: int) -> Table:
    """W2SD against its strong model, at equal steps and at equal evaluations (the strong model with more steps).

    Mixture: two modes in the plane, 95/5 in the weak law, 80/20 in the strong one, 50/50 in truth, all known in closed
    form; 50 steps, 4000 samples; error of the share of the first mode, and the spread of the modes as a share of the
    true one, which shrinks. On the variance-preserving process by DDIM, and on rectified flow by Euler's method.

    Digits, a difference of weights: an MLP of flow matching after 200 and after 1200 training steps is the weak and the
    strong model; Frechet distance of 2000 samples in 32 steps to the digits, on the features of a classifier trained
    here; 3 training seeds.

    `shapes`, a difference of conditions: the strong model is the conditional prediction, the weak one the
    unconditional; mean reader error of 96 validation captions of two objects or more, 16 steps of DDIM. Classifier-free
    guidance mixes the same pair, and is in the rows. W2SD between the strong model and itself shows what the grid does:
    the two moves of equal models do not cancel, and the less the coarser it is.
    """
    rows: list[Mapping[str, Cell]] = []
    figures: dict[str, Figure] = {
        "mixture: share error / strong": _mixture(VP(), seed, rows),
        "mixture, flow: share error / strong": _mixture(Flow(), seed, rows),
    }
    figures |= _digits(seed, rows)
    figures |= _shapes(seed, rows)
    return Table(rows, figures)


def _mixture(process: Gaussian, seed: int, rows: list[Mapping[str, Cell]]) -> Estimate:
    """Error of the share of samples in the first mode, as a share of the strong model's."""
    means, std = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.2

    def law(share: float) -> GaussianMixture:
        return GaussianMixture(means, process, std=std, weights=torch.tensor([share, 1.0 - share]), kind=X0)

    strong, weak = law(0.8), law(0.95)
    start = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    arms: dict[str, tuple[int, Sequence[Hook]]] = {
        "strong": (FINE, ()),
        "strong, equal evaluations": (3 * FINE - 2, ()),
        "W2SD": (FINE, [W2SD(strong, weak)]),
        "W2SD, strength 0.5": (FINE, [W2SD(strong, weak, strength=0.5)]),
        "W2SD of strong and strong": (FINE, [W2SD(strong, strong)]),
    }
    first: dict[str, np.ndarray] = {}
    for name, (steps, hooks) in arms.items():
        run = sample(strong, start, sampler=DDIM(), steps=steps, hooks=hooks)
        assert isinstance(run.x, Tensor)
        inside = run.x[:, 0] < 0
        first[name] = inside.double().numpy()
        spread = torch.cat([run.x[rows] - run.x[rows].mean(0) for rows in (inside, ~inside)]).std() / std
        rows.append({
            "on": f"mixture, {type(process).__name__}", "arm": name, "evaluations": int(run.nfe[0]),
            "share error": statistics.bootstrap(_error, first[name]), "spread / true": float(spread),
        })  # fmt: skip
    return statistics.bootstrap(lambda a, b: _error(a) / _error(b), first["W2SD"], first["strong"])


def _error(inside: np.ndarray) -> float:
    return float(abs(np.mean(inside) - 0.5))


def _digits(seed: int, rows: list[Mapping[str, Cell]]) -> dict[str, Figure]:
    """Frechet distances, one for each training seed."""
    found: dict[str, list[float]] = {}
    spent: dict[str, int] = {}
    for k in range(seed * SEEDS, (seed + 1) * SEEDS):
        weak, strong = _early_and_trained(k)
        arms: dict[str, tuple[Denoiser, int, Sequence[Hook]]] = {
            "weak": (weak, STEPS, ()),
            "strong": (strong, STEPS, ()),
            "strong, equal evaluations": (strong, 3 * STEPS - 2, ()),
            "W2SD": (strong, STEPS, [W2SD(Branch(), weak)]),
            "W2SD, strength 0.5": (strong, STEPS, [W2SD(Branch(), weak, strength=0.5)]),
            "W2SD of strong and strong": (strong, STEPS, [W2SD(Branch(), Branch())]),
        }
        for name, (net, steps, hooks) in arms.items():
            run = sample(net, (digits.N, 1, 8, 8), sampler=Euler(), steps=steps, noise=k, hooks=hooks)
            found.setdefault(name, []).append(digits.distance(run.x))
            spent[name] = int(run.nfe[0])
    for name, distances in found.items():
        rows.append({
            "on": "digits", "arm": name, "evaluations": spent[name], "Frechet distance": statistics.mean(distances),
        })  # fmt: skip
    return {
        "digits: Frechet distance / strong": statistics.ratio(found["W2SD"], found["strong"]),
        "digits: the same at equal evaluations": statistics.ratio(found["W2SD"], found["strong, equal evaluations"]),
    }


def _early_and_trained(seed: int) -> tuple[Network, Network]:
    """The averaged network early in its training, and at its end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Network(MLP((1, 8, 8)), MLPFamily(), Flow(), FLOW)
    phase = Phase(Denoising(), optim=AdamW(1e-3, schedule=WarmupDecay(50, 0.5)))
    trainer = Trainer({"model": model}, phase, {"ema": EMA(decay=0.995)}, seed=seed)
    steps = trainer.fit(Shuffled(recipe.data()[0], Cond(), 128, seed), TRAINED)
    for _ in islice(steps, EARLY):
        pass
    early = copy.deepcopy(trainer.roles.ema)
    for _ in steps:
        pass
    late = trainer.roles.ema
    assert isinstance(early, Network) and isinstance(late, Network)
    return early.eval(), late.eval()


def _shapes(seed: int, rows: list[Mapping[str, Cell]]) -> dict[str, Figure]:
    """Reader errors of the conditional prediction, with the unconditional one as its weak model."""
    loaded = mw.model()
    texts = [c for c in mw.captions(512) if c.count > 1][TRIALS : TRIALS + CAPTIONS]
    arms: dict[str, tuple[int, Guidance, Sequence[Hook]]] = {
        "strong": (COARSE, CFG(1.0), ()),
        "strong, equal evaluations": (3 * COARSE - 2, CFG(1.0), ()),
        "W2SD": (COARSE, CFG(1.0), [W2SD(Branch(), Branch(path="null"))]),
        "W2SD of strong and strong": (COARSE, CFG(1.0), [W2SD(Branch(), Branch())]),
        "CFG(2)": (COARSE, CFG(2.0), ()),
        "CFG(3)": (COARSE, CFG(3.0), ()),
    }
    errors: dict[str, np.ndarray] = {}
    for name, (steps, guidance, hooks) in arms.items():
        made = mw.run(loaded, texts, steps=steps, guidance=guidance, hooks=hooks, seed=seed)
        errors[name] = made.error.numpy()
        rows.append({
            "on": "shapes", "arm": name, "evaluations": int(made.nfe[0]), "reader error": statistics.mean(errors[name]),
            "error of the whole prompt": statistics.mean(1.0 - made.judgement.whole.score.double().numpy()),
        })  # fmt: skip
    return {
        "shapes: reader error / strong": statistics.ratio(errors["W2SD"], errors["strong"]),
        "shapes: the same at equal evaluations": statistics.ratio(errors["W2SD"], errors["strong, equal evaluations"]),
    }
