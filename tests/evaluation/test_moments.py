from __future__ import annotations

import numpy as np
import torch
from evaluation_toys import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.evaluation.moments import Blocks, Moments


def close(a, b):
    assert a.n == b.n
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a.scatter, b.scatter, rtol=1e-11, atol=1e-11)


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_moments_of_parts_merge_to_those_of_one_pass(sizes, seed):
    rows = noise(sum(sizes), 3, seed=seed) * 5 + 100
    merged = Moments()
    for part in rows.split(sizes) if sum(sizes) else []:
        merged = merged.merge(Moments.of(part))
    if sum(sizes):
        close(merged, Moments.of(rows))
    else:
        assert merged.n == 0


def test_moments_are_those_of_numpy():
    rows = noise(50, 4)
    moments = Moments.of(rows)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.double().numpy(), rowvar=False), rtol=1e-12)
    np.testing.assert_allclose(moments.second, (rows.double().T @ rows.double()) / 50, rtol=1e-12)


def test_a_large_mean_costs_no_precision():
    rows = noise(1000, 2).double()
    shifted = Moments.of(rows[:500] + 1e6).merge(Moments.of(rows[500:] + 1e6))
    torch.testing.assert_close(shifted.covariance, Moments.of(rows).covariance, rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=4), k=st.integers(2, 5))
def test_blocks_merge_to_those_of_one_pass_and_leave_out_one_each(sizes, k):
    rows = noise(sum(sizes), 2)
    merged = Blocks.empty(k)
    for part in rows.split(sizes) if sum(sizes) else []:
        merged = merged.merge(Blocks.of(part, k))
    whole = Blocks.of(rows, k)
    for one, other in zip(merged.parts, whole.parts, strict=True):
        assert one.n == other.n
        if one.n:
            close(one, other)
    if sum(sizes):
        close(merged.whole, Moments.of(rows))
    for i, left in enumerate(merged.without()):
        keep = [j for j in range(len(rows)) if j % k != i]
        assert left.n == len(keep)
        if keep:
            close(left, Moments.of(rows[keep]))
