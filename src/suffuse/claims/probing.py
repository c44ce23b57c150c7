"""Claims of probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.model import Model
from suffuse.evaluation import statistics
from suffuse.probing.diffusion_classifier import DiffusionClassifier, Ranking
from suffuse.world import COLOURS, SHAPES, Caption, Phrase, render, scenes_from_caption

from . import microworld as mw
from .claim import Table, at_least, at_most, claim

PICTURES = 48
EXHAUSTIVE = ((12, 1),)
STAGED = ((2, 16), (5, 6), (12, 1))


@claim(
    paper="diffusion-classifier",
    expect={
        "top-1 of shape x colour": at_least(0.5),
        "left or right": at_least(0.75),
        "evaluations, independent / shared": at_least(4.0),
        "staged agrees": at_least(0.95),
        "staged evaluations": at_most(0.4),
    },
    budget=900,
)
def diffusion_classifier(seed: int) -> Table:
    """Zero-shot classification by `shapes`: 48 rendered one-object pictures among all shape x colour captions (chance
    1/64), 12 shared evaluations each; 48 two-object pictures between their caption and the one with left and right
    exchanged, 40 evaluations; the staged plan against the exhaustive one; and, on 12 pictures among 12 captions, how
    many times more evaluations independent noise needs to reach the accuracy that 2 shared ones give.
    """
    loaded = mw.model()
    names = [(s, c) for s in SHAPES for c in COLOURS]
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[:PICTURES].tolist()
    x0 = _encoded(loaded, [_single(*names[k]) for k in order], seed)
    candidates = _conditions(loaded, [_single(*name) for name in names])
    full = DiffusionClassifier(EXHAUSTIVE)(loaded.denoiser, x0, candidates, seed)
    staged = DiffusionClassifier(STAGED)(loaded.denoiser, x0, candidates, seed)
    right = [a == b for a, b in zip(full.best.tolist(), order, strict=True)]

    pairs = [_pair(k, seed) for k in range(PICTURES)]
    both = _encoded(loaded, [true for true, _ in pairs], seed + 1)
    told = [loaded.condition([str(p[k]) for p in pairs]) for k in (0, 1)]
    relation = DiffusionClassifier(((40, 1),))(loaded.denoiser, both, told, seed).best == 0

    few, twelve = x0[:12], [candidates[k] for k in order[:12]]
    factor, curve = _sharing(loaded, few, twelve, seed)
    rows = [
        {
            "question": f"one of {len(names)}, exhaustive",
            "accuracy": statistics.proportion(right),
            "evaluations": float(full.nfe.double().mean()),
        },
        {
            "question": f"one of {len(names)}, staged",
            "accuracy": statistics.proportion(_hits(staged, order)),
            "evaluations": float(staged.nfe.double().mean()),
        },
        {"question": "left or right", "accuracy": statistics.proportion(relation.numpy()), "evaluations": 80.0},
        *curve,
    ]
    return Table(
        rows,
        {
            "top-1 of shape x colour": statistics.proportion(right),
            "left or right": statistics.proportion(relation.numpy()),
            "evaluations, independent / shared": factor,
            "staged agrees": statistics.proportion((staged.best == full.best).numpy()),
            "staged evaluations": float(staged.nfe.double().mean() / full.nfe.double().mean()),
        },
    )


def _sharing(loaded: Model, x0: Tensor, candidates: Sequence[Cond], seed: int) -> tuple[float, list]:
    """Factor of evaluations by which independent noise is dearer, and the two curves."""
    rows, accuracy = [], {}
    for shared, counts in ((True, (2,)), (False, (2, 4, 8, 16, 32))):
        for n in counts:
            hits = _hits(
                DiffusionClassifier(((n, 1),), shared=shared)(loaded.denoiser, x0, candidates, seed), range(len(x0))
            )
            accuracy[shared, n] = sum(hits) / len(hits)
            rows.append(
                {
                    "question": f"one of {len(x0)}, {'shared' if shared else 'independent'} noise",
                    "accuracy": statistics.proportion(hits),
                    "evaluations": float(n * len(x0)),
                }
            )
    reached = [n for (shared, n), a in accuracy.items() if not shared and a >= accuracy[True, 2]]
    return (min(reached) if reached else 64) / 2, rows


def _hits(ranking: Ranking, truth: Sequence[int]) -> list[bool]:
    return [a == b for a, b in zip(ranking.best.tolist(), truth, strict=True)]


def _single(shape: str, colour: str) -> Caption:
    return Caption((Phrase(shape, colour),))


def _pair(k: int, seed: int) -> tuple[Caption, Caption]:
    draw = torch.randint(0, 10**6, (4,), generator=torch.Generator().manual_seed(1000 * seed + k)).tolist()
    first = Phrase(SHAPES[draw[0] % len(SHAPES)], COLOURS[draw[1] % len(COLOURS)])
    second = Phrase(
        SHAPES[(draw[0] + 1 + draw[2] % (len(SHAPES) - 1)) % len(SHAPES)],
        COLOURS[(draw[1] + 1 + draw[3] % (len(COLOURS) - 1)) % len(COLOURS)],
    )
    true = Caption((first, second), relation="left of")
    return true, replace(true, phrases=(second, first))


def _encoded(loaded: Model, texts: list[Caption], seed: int) -> Tensor:
    return loaded.encode(render(scenes_from_caption(texts, seed)).rgb)


def _conditions(loaded: Model, texts: list[Caption]) -> list[Cond]:
    cond = loaded.condition([str(c) for c in texts])
    return [cond[k : k + 1] for k in range(len(texts))]
