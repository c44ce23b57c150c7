"""Checks of caches: patches that return what they computed before."""

from __future__ import annotations

from typing import Any

import torch

from ...caching.policy import CachePolicy
from ...core.cond import Cond
from ...core.errors import Refused
from ...core.grid import Grid
from ...core.guidance import Guidance
from ...core.predict import Predict
from ...core.step import Step
from ...core.value import Coef, Value
from .check import check
from .subject import STEPS, NotHere, Subject, close


class _Watching(Guidance):
    """Keeps the conditional prediction of every step."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        self.seen.append(predict(x, t, cond, "cond"))
        return self.seen[-1]


@check(CachePolicy, "Where the state stands still, what is reused is what would be computed.")
def reuse_is_exact_at_rest(subject: Subject) -> None:
    grid = Grid(torch.full((STEPS + 1,), 0.6, dtype=torch.float64))
    for name in subject.homes:
        watching = _Watching()
        try:
            subject.with_method(name, guidance=watching, grid=grid)
        except Refused as reason:
            raise NotHere(f"it belongs to other times: {reason}") from reason
        for i, p in enumerate(watching.seen):
            close(p.value, watching.seen[0].value, f"the prediction of step {i} on {name}")
