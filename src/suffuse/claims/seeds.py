"""Claims about start noise and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from suffuse import load
from suffuse.core.engine import sample
from suffuse.core.hook import Hook
from suffuse.evaluation import statistics
from suffuse.evaluation.brittleness import Brittleness, measure_brittleness
from suffuse.evaluation.features import load_reader
from suffuse.guidance.cfg import CFG
from suffuse.noise.seeds import SeedBank
from suffuse.noise.shifts import Correlated, MeanShift, OtherLaw, ScaleShift, Shift, ShiftedStart, Standardise
from suffuse.probing.seed_study import SeedStudy
from suffuse.samplers.ancestral import DDIM, EulerAncestral
from suffuse.world import Caption
from suffuse.zoo.judge import judge

from . import digits
from . import microworld as mw
from .claim import Cell, Figure, Table, at_least, at_most, claim

SEVERITIES = (0.0, 0.25, 0.5, 1.0, 2.0)
STEPS = 12


def _drawn(texts: Sequence[Caption], seed: int, shifts: tuple[Shift, ...]) -> Tensor:
    loaded = mw.model()
    hooks: list[Hook] = [ShiftedStart(shifts)]
    how: dict[str, Any] = {"sampler": DDIM(), "steps": STEPS, "guidance": CFG(mw.GUIDANCE)}
    return loaded.decode(sample(**mw.place(loaded, texts), **how, noise=seed, hooks=hooks).x).clamp(-1, 1)


def _right(pixels: Tensor, texts: Sequence[Caption]) -> Tensor:
    reader, _ = load_reader(None)
    with torch.no_grad():
        return judge(reader.read(pixels), texts).objects.right.double()


@claim(
    paper="seed-shifts",
    expect={
        "accuracy lost at a shift of 2": at_least(0.2),
        "largest rise of accuracy between severities": at_most(0.05),
        "share of the loss at 1 regained by standardising": at_least(0.8),
    },
    budget=420,
)
def seed_shifts(seed: int) -> Table:
    """Start noise shifted by 0, 0.25, 0.5, 1 and 2 of its standard deviations, 64 validation captions, DDIM in 12 steps
    at scale 3, the same noise under every shift. Accuracy: the reader finds every object in shape and colour; a picture
    is unconditioned where it fits its own caption no better than that of another one.

    Standardising each channel of the shifted noise is the repair. Rows: other shifts at one severity each, and the
    curve of the bundled pixel model of digits, judged by a classifier trained here. Accuracy may rise by 0.05 between
    two severities, which is 3 captions of 64, and still count as falling.
    """
    texts = mw.captions(64)

    def score(pixels: Tensor, prompts: Sequence[int]) -> Tensor:
        return _right(pixels, [texts[p] for p in prompts])

    report = measure_brittleness(lambda delta: _drawn(texts, seed, (MeanShift(delta),)), score, SEVERITIES)
    mended = score(_drawn(texts, seed, (MeanShift(1.0), Standardise())), range(64))
    rows = [*_rows("mean", report), *_rows("mean, digits", _digits(seed))]
    others: dict[str, tuple[Shift, ...]] = {
        "scale 0.8": (ScaleShift(0.8),),
        "scale 1.25": (ScaleShift(1.25),),
        "uniform law": (OtherLaw("uniform"),),
        "signs": (OtherLaw("bernoulli"),),
        "filter of width 0.5": (Correlated(0.5),),
        "one channel by 1": (MeanShift(1.0, channel=0),),
        "mean by 1, standardised": (MeanShift(1.0), Standardise()),
    }
    for name, shifts in others.items():
        found = mended if "standardised" in name else score(_drawn(texts, seed, shifts), range(64))
        rows.append({"shift": name, "severity": None, "accuracy": statistics.mean(found.numpy())})
    clean, one = report.alignment[0], report.alignment[SEVERITIES.index(1.0)]
    means = report.alignment.mean(1)
    figures: dict[str, Figure] = {
        "accuracy lost at a shift of 2": statistics.difference(clean.numpy(), report.alignment[-1].numpy()),
        "largest rise of accuracy between severities": float((means[1:] - means[:-1]).max()),
        "share of the loss at 1 regained by standardising": statistics.ratio(
            (mended - one).numpy(), (clean - one).numpy()
        ),
        "area under the curve": report.area,
    }
    return Table(rows, figures)


def _digits(seed: int) -> Brittleness:
    model, n = load("digits"), 100
    labels, judged = torch.arange(n) % 10, digits.classifier()

    def pictures(delta: float) -> Tensor:
        made = model.generate([str(d) for d in labels.tolist()], steps=STEPS, guidance=2.0, seed=seed,
                              sampler=DDIM(), hooks=[ShiftedStart((MeanShift(delta),))])  # fmt: skip
        return made.latents

    def score(made: Tensor, prompts: Sequence[int]) -> Tensor:
        told = judged(made).argmax(1)
        return (told == labels[list(prompts)]).double()

    return measure_brittleness(pictures, score, SEVERITIES)


def _rows(name: str, report: Brittleness) -> list[Mapping[str, Cell]]:
    return [
        {
            "shift": name,
            "severity": float(severity),
            "accuracy": statistics.mean(report.alignment[k].numpy()),
            "unconditioned": float(report.unconditioned[k]),
            "distance": statistics.mean(report.distance[k].numpy()),
        }
        for k, severity in enumerate(report.severities)
    ]


PROMPTS, SEEDS = 60, 16


@claim(
    paper="good-seed",
    expect={
        "seeds recognised on unseen prompts": at_least(0.31),
        "doubt of the 4 best seeds / of the 4 worst": at_most(0.9),
    },
    budget=600,
)
def good_seed(seed: int) -> Table:
    """60 validation captions of two objects times 16 seeds, Euler ancestral in 8 steps, unguided; a seed fixes all
    noise of its pictures. (At scale 2 the model makes too few mistakes to rank seeds by: the ratio below was
    1.6 [0.95, 13] there.)

    A classifier fitted on 40 captions names the seed of pictures of the other 20; chance is 6.25 %. Seeds are ranked by
    the reader's doubt (one minus its score of the objects) on 30 captions, and the four best are compared with the four
    worst on the other 30. Rows: mean doubt and dimensions of every seed; how the variance of doubt divides.
    """
    texts, loaded = mw.captions(PROMPTS, objects=2), mw.model()
    bank = SeedBank(tuple(range(100 * seed, 100 * seed + SEEDS)))
    pixels, doubt = [], []
    for first in range(0, PROMPTS, 4):
        some = [c for c in texts[first : first + 4] for _ in range(SEEDS)]
        run: dict[str, Any] = {"sampler": EulerAncestral(), "steps": 8, "guidance": CFG(1.0), "noise": bank}
        made = loaded.decode(sample(**mw.place(loaded, some), **run).x).clamp(-1, 1)
        pixels.append(made.unflatten(0, (-1, SEEDS)))
        doubt.append(mw.Pictures(made, torch.zeros(0), made, some).error.unflatten(0, (-1, SEEDS)))
    study = SeedStudy(torch.cat(pixels), {"trust": -torch.cat(doubt)}, bank.seeds)
    recognised = study.recognised(range(40), range(40, PROMPTS))
    half = PROMPTS // 2
    order = study.of_prompts(range(half)).ranked("trust")
    held = -study.of_prompts(range(half, PROMPTS)).scores["trust"]
    best, worst = ([bank.seeds.index(s) for s in some] for some in (order[:4], order[-4:]))
    shares, places = study.shares("trust"), study.dimensions()
    rows: list[Mapping[str, Cell]] = [
        {
            "seed": s,
            "doubt": statistics.mean(-study.scores["trust"][:, k].numpy()),
            **{name: round(float(v[:, k].mean()), 3) for name, v in places.items()},
        }
        for k, s in enumerate(bank.seeds)
    ]
    figures: dict[str, Figure] = {
        "seeds recognised on unseen prompts": statistics.mean(recognised.double().flatten().numpy()),
        "doubt of the 4 best seeds / of the 4 worst": statistics.ratio(
            held[:, best].mean(1).numpy(), held[:, worst].mean(1).numpy()
        ),
        "variance of doubt from seeds": shares.seed,
        "variance of doubt from prompts": shares.prompt,
    }
    return Table(rows, figures)
