"""Claims of schedules and solvers that are fitted or searched for a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from suffuse.caching.autodiffusion import AutoDiffusion
from suffuse.caching.skipping import layers_of
from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.prediction import X0
from suffuse.core.sampler import Sampler
from suffuse.core.value import flat
from suffuse.evaluation import statistics
from suffuse.guidance.cfg import CFG
from suffuse.processes import VP
from suffuse.samplers import DDIM, DEIS, OLSS, DPMSolverPP, Quadratic, Trailing
from suffuse.search import Evolution
from suffuse.testing.analytic import GaussianMixture
from suffuse.zoo.recipes.digits import CLASSES

from . import digits
from . import microworld as mw
from .claim import Cell, Figure, Table, at_most, claim

STEPS, FINE, CAPTIONS = 5, 100, 24
MODES, DIMENSION, TRAIN, TEST = 8, 16, 64, 512


@claim(
    paper="olss",
    expect={
        "mixture: OLSS / DDIM": at_most(0.7),
        "mixture: OLSS / DEIS-2": at_most(0.7),
        "shapes: OLSS / DDIM": at_most(0.9),
    },
    budget=300,
)
def olss(seed: int) -> Table:
    """Distance of 5-step runs to the end of 100-step DDIM from the same noise (root mean square), on samples that the
    solver was not fitted on.

    Mixture: 8 modes with means from N(0, I) and standard deviation 0.5 in 16 dimensions, known in closed form, under
    the variance-preserving process; OLSS is fitted on 64 runs and tried on 512. `shapes`: latents of 24 validation
    captions with guidance 3, fitted on runs of 24 others. DDIM and DEIS of degree 2 are taken at even and at quadratic
    times and judged by the better of the two; at the times that OLSS chose they are figures beside it, which say how
    much of the gain is in the weights.
    """
    rows: list[Mapping[str, Cell]] = []
    generator = torch.Generator().manual_seed(seed)
    law = GaussianMixture(torch.randn(MODES, DIMENSION, generator=generator), VP(), std=0.5, kind=X0)
    train, test = (torch.randn(n, DIMENSION, generator=generator, dtype=torch.float64) for n in (TRAIN, TEST))
    even = {"denoiser": law, "spacing": Trailing()}
    known = _errors("mixture", {**even, "x": train}, {**even, "x": test}, rows)
    loaded, texts = mw.model(), mw.captions(2 * CAPTIONS)
    places = [{**mw.place(loaded, part), "guidance": CFG(mw.GUIDANCE)} for part in (texts[CAPTIONS:], texts[:CAPTIONS])]
    shown = _errors("shapes", {**places[0], "noise": seed + 1000}, {**places[1], "noise": seed}, rows)
    figures: dict[str, Figure] = {
        "mixture: OLSS / DDIM": _ratio(known["OLSS"], known["DDIM"]),
        "mixture: OLSS / DEIS-2": _ratio(known["OLSS"], known["DEIS-2"]),
        "shapes: OLSS / DDIM": _ratio(shown["OLSS"], shown["DDIM"]),
        "shapes: OLSS / DEIS-2": _ratio(shown["OLSS"], shown["DEIS-2"]),
        "mixture: OLSS / DDIM at its times": _ratio(known["OLSS"], known["DDIM at its times"]),
        "shapes: OLSS / DDIM at its times": _ratio(shown["OLSS"], shown["DDIM at its times"]),
    }
    return Table(rows, figures)


def _errors(
    on: str, train: dict[str, Any], test: dict[str, Any], rows: list[Mapping[str, Cell]]
) -> dict[str, np.ndarray]:
    """Squared error of each test sample, by solver, at the better of its spacings, and at the times of OLSS."""
    solver = OLSS.fit(**train, steps=STEPS, fine=FINE)
    end = flat(sample(**test, sampler=DDIM(), steps=FINE).x)
    spacings = {"even": test["spacing"], "quadratic": Quadratic(), "those of OLSS": solver.spacing}

    def squares(name: str, times: str, sampler: Sampler) -> np.ndarray:
        run = sample(**{**test, "spacing": spacings[times]}, sampler=sampler, steps=STEPS)
        found = (flat(run.x) - end).double().square().mean(1).numpy()
        error = statistics.bootstrap(lambda v: math.sqrt(np.mean(v)), found)
        rows.append({"on": on, "solver": name, "times": times, "evaluations": int(run.nfe[0]), "RMSE": error})
        return found

    best = {"OLSS": squares("OLSS", "those of OLSS", solver)}
    for name, sampler in (("DDIM", DDIM()), ("DEIS-2", DEIS(2)), ("DPM-Solver++ 2M", DPMSolverPP(2))):
        best[name] = min((squares(name, times, sampler) for times in ("even", "quadratic")), key=np.mean)
        best[f"{name} at its times"] = squares(name, "those of OLSS", sampler)
    return best


def _ratio(squares: np.ndarray, baseline: np.ndarray) -> statistics.Estimate:
    return statistics.bootstrap(lambda a, b: math.sqrt(np.mean(a) / np.mean(b)), squares, baseline)


SEARCH_STEPS, PICTURES, POPULATION, FRESH = 4, 400, 25, 6


@claim(
    paper="autodiffusion",
    expect={
        "times: distance / even": at_most(0.7),
        "times and layers: distance / even": at_most(1.0),
        "times and layers: layers": at_most(0.9),
    },
    budget=600,
)
def autodiffusion(seed: int) -> Table:
    """Frechet distance to the digits, in features of a classifier, of 2000 samples of the class-conditional model
    `digits` with 4 steps of DDIM: policies that were searched on one noise, against even times, each on six other
    noises that the search has not seen.

    One policy from 75 candidates (three rounds of 25) of times alone; one from 150 candidates whose runs may use 90 %
    of the layers of 4 steps, up to a quarter of the network's left out at one step. A candidate is scored by 400
    samples.
    """
    loaded = mw.model("digits")

    def run(n: int, noise: int) -> dict[str, Any]:
        labels = Cond({"label": torch.arange(n) % CLASSES})
        return {"denoiser": loaded.denoiser, "x": (n, 1, 8, 8), "cond": labels, "sampler": DDIM(), "noise": noise}

    def search(**settings: Any) -> AutoDiffusion:
        return AutoDiffusion.search(
            **run(PICTURES, seed), distance=digits.distance, steps=SEARCH_STEPS, evolution=Evolution.of(POPULATION),
            seed=seed, batch=PICTURES, **settings,
        )  # fmt: skip

    arms: dict[str, AutoDiffusion | None] = {
        "even": None,
        "times": search(rounds=3),
        "times and layers": search(rounds=6, layers=0.9, max_prune=0.25),
    }
    assert loaded.denoiser.sites is not None
    layers = len(layers_of(loaded.denoiser.sites))
    rows: list[Mapping[str, Cell]] = []
    distances, shares = {}, {}
    for name, policy in arms.items():
        how: dict[str, Any] = {"spacing": policy, "patches": [policy]} if policy else {}
        found = [
            digits.distance(sample(**run(digits.N, 1000 * (seed + 1) + k), steps=SEARCH_STEPS, **how).x)
            for k in range(FRESH)
        ]
        distances[name] = np.array(found)
        skipped = policy.skipped if policy else ((),) * SEARCH_STEPS
        shares[name] = sum(layers - len(step) for step in skipped) / (layers * SEARCH_STEPS)
        rows.append(
            {
                "policy": name,
                "times": ", ".join(f"{t:.3f}" for t in policy.made_for.times) if policy else "1, 0.75, 0.5, 0.25, 0",
                "layers left out": ", ".join(str(len(step)) for step in skipped),
                "layers": shares[name],
                "Frechet distance": statistics.mean(distances[name]),
            }
        )
    figures: dict[str, Figure] = {
        "times: distance / even": statistics.ratio(distances["times"], distances["even"]),
        "times and layers: distance / even": statistics.ratio(distances["times and layers"], distances["even"]),
        "times and layers: layers": shares["times and layers"],
    }
    return Table(rows, figures)
