"""Comparing the speed of two functions on a machine that is not quiet: interleaved pairs, cold apart from warm.

Times of one function differ by tens of per cent from minute to minute; the ratio of two that run side by side does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from suffuse.core.errors import BadInput
from suffuse.core.metric import Estimate

from . import statistics

Work = Callable[[], object]


@dataclass(frozen=True)
class Paired:
    """Times of two functions that ran in turns.

    Args:
        subject, baseline: seconds a call, one entry a round.
        cold: seconds of the very first call of each, (subject, baseline); in no other figure.
        ratio: median of subject / baseline over rounds, with its bootstrap interval; below 1 the subject is faster.
    """

    subject: tuple[float, ...]
    baseline: tuple[float, ...]
    cold: tuple[float, float]
    ratio: Estimate

    @property
    def medians(self) -> tuple[float, float]:
        """Median warm seconds a call, (subject, baseline)."""
        return float(np.median(self.subject)), float(np.median(self.baseline))

    def __str__(self) -> str:
        ours, theirs = self.medians
        return (f"ratio {self.ratio} over {self.ratio.n} pairs; warm {_time(ours)} against {_time(theirs)}; "
                f"cold {_time(self.cold[0])} against {_time(self.cold[1])}")  # fmt: skip


def paired(subject: Work, baseline: Work, *, rounds: int = 30, seconds: float = 0.01) -> Paired:
    """Time two functions side by side in this process.

    Each is called once cold, then often enough for a round to last `seconds`; in a round both run one after the other,
    and which of them is first alternates.

    Args:
        subject: the function in question.
        baseline: what it is compared with.
        rounds: number of pairs, 5 or more.
        seconds: shortest duration of one function in one round; short calls are repeated to reach it.
    """
    if rounds < 5:
        raise BadInput(f"rounds={rounds}: an interval needs 5 pairs or more")
    cold = seconds_of(subject), seconds_of(baseline)
    repeats = [max(1, round(seconds / max(seconds_of(work), 1e-7))) for work in (subject, baseline)]
    times: tuple[list[float], list[float]] = ([], [])
    for k in range(rounds):
        for which in (0, 1) if k % 2 == 0 else (1, 0):
            times[which].append(seconds_of((subject, baseline)[which], repeats[which]))
    return Paired(tuple(times[0]), tuple(times[1]), cold, statistics.median_ratio(*times))


def seconds_of(work: Work, repeats: int = 1) -> float:
    """Seconds a call, over `repeats` calls in a row; an accelerator's queue is waited for."""
    _synchronise()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    _synchronise()
    return (time.perf_counter() - start) / repeats


def ceiling(size: int = 1024, dtype: torch.dtype = torch.float32, rounds: int = 5, device: str = "cpu") -> float:
    """Floating-point operations a second of the best of some square matrix products: what this machine can do now.

    It is measured with the number of threads in force, so that shares of it are of the same cores.
    """
    a = torch.rand(size, size, device=device).to(dtype)
    a @ a
    return 2 * size**3 / min(seconds_of(lambda: a @ a) for _ in range(rounds))


def _synchronise() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
