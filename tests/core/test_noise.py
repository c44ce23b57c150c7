"""Noise is a function of (seed, sample, key)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.core.noise import Keyed, Recorded, Shifted, Stream
from suffuse.core.value import Tree


@settings(max_examples=30)
@given(st.integers(0, 10**9), st.lists(st.integers(0, 99), min_size=1, max_size=5, unique=True), st.integers(1, 5))
def test_batches_are_their_rows(seed, samples, size):
    like, noise = torch.empty(len(samples), size, 2), Keyed(seed)
    whole = noise.normal(like, samples, "k")
    for row, sample in zip(whole, samples, strict=True):
        assert torch.equal(row, noise.normal(like[:1], [sample], "k")[0])


def test_longer_draws_begin_like_shorter_ones():
    assert torch.equal(
        Keyed(1).normal(torch.empty(1, 24), [0], "k")[:, :8], Keyed(1).normal(torch.empty(1, 8), [0], "k")
    )


def test_keys_seeds_folds_and_samples_are_independent():
    like = torch.empty(1, 20000)
    draws = [Keyed(0).normal(like, [0], "a"), Keyed(1).normal(like, [0], "a"), Keyed(0).normal(like, [1], "a"),
             Keyed(0).normal(like, [0], "b"), Keyed(0).fold(1).normal(like, [0], "a")]  # fmt: skip
    correlation = torch.corrcoef(torch.cat(draws))
    assert (correlation - torch.eye(5)).abs().max() < 0.03
    assert abs(draws[0].mean()) < 0.03 and abs(draws[0].std() - 1) < 0.03


def test_frozen_values():
    # the same numbers on every machine: a change here changes every picture ever made with a seed
    torch.testing.assert_close(
        Keyed(7).normal(torch.empty(1, 3), [2], "start")[0],
        torch.tensor([0.43583113, -1.25616801, -0.09885483]),
        atol=1e-6,
        rtol=0,
    )


def test_kinds():
    u = Keyed(0).uniform(torch.empty(1, 10000), [0], "u")
    assert 0 <= u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 0.02
    g = Keyed(0).gumbel(torch.empty(1, 10000), [0], "u")
    assert abs(g.mean() - 0.5772) < 0.05
    assert Keyed(0).normal(Tree(a=torch.empty(2, 3), b=torch.empty(2)), [0, 1], "k")["b"].shape == (2,)


def test_recorded_shifted_stream():
    z = torch.randn(2, 3)
    noise = Recorded({"k": z}, samples=[5, 9], otherwise=Keyed(0))
    assert torch.equal(noise.normal(torch.empty(1, 3), [9], "k")[0], z[1])
    assert torch.equal(noise.normal(torch.empty(1, 3), [9], "other"), Keyed(0).normal(torch.empty(1, 3), [9], "other"))
    with pytest.raises(KeyError, match="recorded: k"):
        Recorded({"k": z}, [5, 9]).normal(torch.empty(1, 3), [9], "other")
    assert torch.equal(
        Shifted(Keyed(0), lambda v, key: v + 1).normal(z, [0, 1], "k"), Keyed(0).normal(z, [0, 1], "k") + 1
    )
    stream = Stream(torch.Generator().manual_seed(3)).normal(z, [0, 1], "any")
    assert torch.equal(stream, torch.randn(2, 3, generator=torch.Generator().manual_seed(3)))
