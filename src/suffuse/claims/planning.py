"""Claim of the search for stacks of accelerations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from suffuse.caching import DeepCache
from suffuse.caching.planning import Option, Stack, plan_acceleration
from suffuse.evaluation.features import load_reader
from suffuse.guidance.cfg import CFG
from suffuse.images import to_tensor
from suffuse.samplers import UniPC
from suffuse.world import parse
from suffuse.zoo.judge import judge

from . import microworld as mw
from .claim import Cell, Table, at_most, claim

BUDGET, TOLERANCE, CAPTIONS = 0.35, 1.1, 64

OPTIONS = (
    *(Option("steps", {"sampler": UniPC(), "steps": n}) for n in (16, 10)),
    *(Option("guidance", {"guidance": CFG(mw.GUIDANCE).during(0.0, stop)}) for stop in (0.7,)),
    *(Option("depth", {"patches": [DeepCache(every)]}) for every in (2, 3)),
)


@claim(
    paper="efficient-survey",
    expect={
        "MACs of the best stack": at_most(0.35),
        "error of the best stack / baseline": at_most(TOLERANCE),
        "MACs, best stack / best single option": at_most(0.9),
    },
    budget=600,
)
def efficient_survey(seed: int) -> Table:
    """12 stacks of solver, guidance window and cache on `shapes`, against 50 steps of DDIM with CFG, 64 validation
    captions of three objects, which the model does not always get right. An error is one minus the reader's score of a
    caption's objects. The best stack of two options or more is the one of fewest multiplications whose mean error is at
    most 1.1 times the baseline's; so is the best single option.

    A null result for stacks: 10 steps of UniPC by themselves need 0.22 of the MACs, and every stack that needs less has
    1.2 times the baseline's errors or more, as far as 64 captions tell. Solver steps are the best use of little work
    where a caption has three objects: on 96 captions of the training stream 7 steps have 0.97 +- 0.16 times the errors
    of 50 of DDIM; and 8 steps with guidance in the first half 1.28 +- 0.17 times those of 10 steps, with DeepCache(2)
    1.40 +- 0.24, with both 1.67 +- 0.22, though these pass for the same distribution on captions of fewer objects.
    """
    loaded = mw.model()
    texts = [str(c) for c in mw.captions(CAPTIONS, objects=3)]
    found = plan_acceleration(
        loaded, texts, budget=BUDGET, tolerance=TOLERANCE, options=OPTIONS, error=_missed, steps=50, seed=seed
    )
    rows: list[Mapping[str, Cell]] = [
        {"stack": str(s), "MACs": s.macs, "evaluations": s.nfe, "time": s.time, "error / baseline": s.error,
         "front": "yes" if s in found.front else "no"}
        for s in found.stacks
    ]  # fmt: skip
    kept = [s for s in found.stacks if s.error.mean <= TOLERANCE]
    best = _cheapest([s for s in kept if len(s.options) > 1] or kept)
    single = _cheapest([s for s in kept if len(s.options) < 2])
    return Table(
        rows,
        {
            "MACs of the best stack": best.macs,
            "error of the best stack / baseline": best.error,
            "MACs, best stack / best single option": best.macs / single.macs,
        },
    )


def _cheapest(stacks: Sequence[Stack]) -> Stack:
    return min(stacks, key=lambda s: s.macs)


def _missed(images: Any, prompts: Sequence[str]) -> Any:
    reader, _ = load_reader(None)
    with torch.no_grad():
        found = judge(reader.read(to_tensor(images.images)), [parse(p) for p in prompts])
    return 1.0 - found.objects.score.double().numpy()
