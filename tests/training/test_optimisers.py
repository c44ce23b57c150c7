from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suffuse.training import AdamW, ConstantRate, CosineDecay, WarmupDecay

schedules = st.one_of(
    st.builds(ConstantRate, st.integers(0, 50)),
    st.builds(CosineDecay, st.integers(0, 50), st.floats(0, 1)),
    st.builds(WarmupDecay, st.integers(0, 50), st.floats(0, 1), st.floats(0, 1)),
)


@given(schedule=schedules, steps=st.integers(1, 200), data=st.data())
def test_a_factor_is_between_zero_and_one(schedule, steps, data):
    step = data.draw(st.integers(0, steps - 1))
    assert 0 < schedule(step, steps) + 1e-12 <= 1 + 1e-9


def test_shapes():
    assert [ConstantRate(3)(s, 9) for s in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert CosineDecay(0, 0.1)(0, 10) == 1 and CosineDecay(0, 0.1)(5, 10) == pytest.approx(0.55)
    trapeze = WarmupDecay(warmup=1, decay=0.5)
    assert [trapeze(s, 10) for s in (0, 1, 5, 6, 9)] == pytest.approx([0.5, 1, 1, 0.8, 0.2])
    assert WarmupDecay(0, 0.0)(9, 10) == 1


def test_values_compare_and_scale():
    assert AdamW(1e-3) == AdamW() and AdamW(2e-3, schedule=ConstantRate(1)).rate(0, 5) == 1e-3
    optimiser = AdamW(weight_decay=0.3).build([torch.zeros(1, requires_grad=True)])
    assert optimiser.param_groups[0]["weight_decay"] == 0.3
