from __future__ import annotations

import time

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.evaluation import timing
from suffuse.evaluation.operations import operations
from suffuse.evaluation.timing import ceiling, paired, seconds_of


class Clock:
    """A clock that stands still but for the work done; so no load of the machine changes what is measured."""

    now = 0.0


class Work:
    """Takes so long on the clock; the first call longer."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def __call__(self):
        self.calls += 1
        self.clock.now += self.seconds + (0.05 if self.calls == 1 else 0)


def test_the_ratio_is_of_warm_pairs_and_the_cold_call_is_apart(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    slow, fast = Work(clock, 0.004), Work(clock, 0.002)
    found = paired(slow, fast, rounds=8, seconds=0.004)
    assert found.ratio.mean == pytest.approx(2.0) and found.ratio.interval == pytest.approx((2.0, 2.0))
    assert found.ratio.n == len(found.subject) == len(found.baseline) == 8
    assert min(found.cold) > 0.05 > max(found.medians)
    assert slow.calls == 2 + 8 and fast.calls == 2 + 8 * 2
    assert "8 pairs" in str(found)


def test_seconds_of_a_call_are_over_repeats(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    assert seconds_of(Work(clock, 0.002), 3) == pytest.approx(0.002 + 0.05 / 3)


def test_operations_are_counted_and_the_ceiling_is_a_speed():
    layer = torch.nn.Linear(32, 16)
    assert operations(lambda: layer(torch.zeros(4, 32))) == 2 * 4 * 32 * 16
    work = torch.rand(128, 128)
    reached = operations(lambda: work @ work) / seconds_of(lambda: work @ work, 20)
    assert 0.01 * reached < ceiling(128) < 1e15


def test_too_few_rounds_are_refused():
    with pytest.raises(BadInput, match="rounds=4"):
        paired(time.time, time.time, rounds=4)
