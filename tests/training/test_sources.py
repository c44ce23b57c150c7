"""Data order is a function of the seed and the step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.core.cond import Cond
from suffuse.core.errors import BadInput
from suffuse.core.noise import Keyed
from suffuse.core.training import Batch, Roles
from suffuse.core.value import Tree
from suffuse.training import Mix, Shuffled
from suffuse.training.sources import permutation, seekable

sizes = st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def rows(n: int) -> Shuffled:
    return Shuffled(torch.arange(n), Cond({"y": torch.arange(n) * 2}), 1)


@settings(max_examples=60, deadline=None)
@given(size=sizes, seed=st.integers(-(2**63), 2**63), epoch=st.integers(0, 10**9))
def test_an_epoch_visits_every_sample_at_most_once(size, seed, epoch):
    n, batch = size
    source = Shuffled(torch.arange(n), Cond(), batch, seed)
    first = epoch * (n // batch)
    seen = torch.cat([source(first + i).ids for i in range(n // batch)])
    assert len(seen) == len(set(seen.tolist())) == n // batch * batch and seen.min() >= 0 and seen.max() < n


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 200), seed=st.integers(), epoch=st.integers(0))
def test_permutations_are_permutations_and_depend_only_on_their_key(n, seed, epoch):
    torch.manual_seed(0)
    order = permutation(seed, epoch, n)
    assert torch.equal(order.sort().values, torch.arange(n))
    permutation.cache_clear()
    torch.rand(3)
    assert torch.equal(order, permutation(seed, epoch, n))


def test_orders_of_epochs_and_seeds_differ():
    orders = {tuple(permutation(seed, epoch, 20).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_every_position_is_equally_likely():
    counts = torch.zeros(4, 4)
    for epoch in range(4000):
        counts[torch.arange(4), permutation(0, epoch, 4)] += 1
    chi = ((counts - 1000) ** 2 / 1000).sum()
    assert chi < 27.9  # 9 degrees of freedom, one in a thousand


def test_the_order_is_pinned():
    assert permutation(0, 0, 8).tolist() == [3, 1, 2, 6, 7, 0, 5, 4]


@given(steps=st.lists(st.integers(0, 1000), min_size=1, max_size=10))
@settings(max_examples=20, deadline=None)
def test_seeking_equals_reading(steps):
    source = Shuffled(torch.arange(17), Cond({"y": torch.arange(17) * 2}), 5, seed=3)
    for step in steps:
        batch = source(step)
        assert torch.equal(batch.data, batch.ids) and torch.equal(batch.cond["y"], batch.ids * 2) and len(batch) == 5


def test_ids_and_trees_travel_with_the_rows():
    data = Tree(a=torch.arange(6), b=torch.arange(12).view(6, 2))
    source = Shuffled(data, Cond(), 4, ids=torch.arange(6) + 100)
    batch = source(0)
    assert torch.equal(batch.data["a"] + 100, batch.ids) and torch.equal(batch.data["b"][:, 0], batch.data["a"] * 2)


def test_a_batch_larger_than_the_data_is_refused():
    for batch in (0, 7):
        with pytest.raises(BadInput, match=f"batch={batch} does not fit a data set of 6"):
            Shuffled(torch.arange(6), Cond(), batch)


@settings(max_examples=40, deadline=None)
@given(ratio=st.floats(0, 1), steps=st.integers(1, 200))
def test_mix_takes_its_share_and_skips_nothing(ratio, steps):
    def numbered(name):
        return lambda step: Batch(torch.tensor([step]), Cond(), torch.tensor([name]))

    mix = Mix(numbered(0), numbered(1), ratio)
    assert seekable(mix)(Roles({}), Keyed(0), 0)
    found = [mix(Roles({}), Keyed(0), step) for step in range(steps)]
    for name in (0, 1):
        turns = [int(b.data[0]) for b in found if b.ids[0] == name]
        assert turns == list(range(len(turns)))
        if name == 1:
            assert abs(len(turns) - ratio * steps) <= 1


def test_mix_refuses_what_is_no_share():
    with pytest.raises(BadInput, match="ratio=1.5"):
        Mix(rows(3), rows(3), 1.5)


def test_an_iterable_starts_again_and_can_seek():
    read = seekable([rows(3)(i) for i in range(3)])
    at = [read(Roles({}), Keyed(0), step).ids.item() for step in (0, 1, 2, 3, 7, 1)]
    plain = [permutation(0, 0, 3)[step % 3].item() for step in (0, 1, 2, 3, 7, 1)]
    assert at == plain
    with pytest.raises(BadInput, match="no batch"):
        seekable([])(Roles({}), Keyed(0), 0)
