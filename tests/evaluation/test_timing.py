from __future__ import annotations

import time

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.evaluation.timing import ceiling, operations, paired, seconds_of


class Work:
    """Sleeps; the first call longer."""

    def __init__(self, seconds):
        self.seconds, self.calls = seconds, 0

    def __call__(self):
        self.calls += 1
        time.sleep(self.seconds + (0.05 if self.calls == 1 else 0))


def test_the_ratio_is_of_warm_pairs_and_the_cold_call_is_apart():
    slow, fast = Work(0.004), Work(0.002)
    found = paired(slow, fast, rounds=8, seconds=0.004)
    assert 1.5 < found.ratio.mean < 2.4 and found.ratio.interval[0] <= found.ratio.mean <= found.ratio.interval[1]
    assert found.ratio.n == len(found.subject) == len(found.baseline) == 8
    assert min(found.cold) > 0.05 > max(found.medians)
    assert slow.calls == 2 + 8 and fast.calls == 2 + 8 * 2
    assert "8 pairs" in str(found)


def test_seconds_of_a_call_are_over_repeats():
    assert 0.002 <= seconds_of(lambda: time.sleep(0.002), 3) < 0.02


def test_operations_are_counted_and_the_ceiling_is_a_speed():
    layer = torch.nn.Linear(32, 16)
    assert operations(lambda: layer(torch.zeros(4, 32))) == 2 * 4 * 32 * 16
    work = torch.rand(128, 128)
    reached = operations(lambda: work @ work) / seconds_of(lambda: work @ work, 20)
    assert 0.01 * reached < ceiling(128) < 1e15


def test_too_few_rounds_are_refused():
    with pytest.raises(BadInput, match="rounds=4"):
        paired(time.time, time.time, rounds=4)
