"""TokenMerging: pairs by hand, tokens that come back to their places, fewer operations."""

from __future__ import annotations

import pytest
import torch

from suffuse.caching import TokenMerging
from suffuse.caching.token_merging import matched
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.patch import Patch
from suffuse.evaluation.operations import operations
from suffuse.guidance import CFG
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states


def run(name, patches=(), rows=slice(0, 3), steps=3, size=8, **change):
    settings = {"sampler": DDIM(), "steps": steps, "guidance": CFG(3.0), **change}
    ids, x = list(range(3))[rows], states(name, 3, size)[rows]
    return sample(fixture(name), x, cond=conditions(name, 3)[rows], patches=patches, samples=ids, **settings)


X = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.3], [0.5, 0.4]]])


def test_pairs_by_hand():
    pairs = matched(X, torch.tensor([[0, 1]]), 1)  # token 2 is more like 0 than token 3 is like any
    assert (pairs.kept.tolist(), pairs.sources.tolist(), pairs.into.tolist()) == ([[3]], [[2]], [[0]])
    merged = pairs.merged(X)
    torch.testing.assert_close(merged, torch.tensor([[[0.5, 0.4], [2.0, 0.15], [0.0, 2.0]]]))
    torch.testing.assert_close(pairs.parted(merged), X[:, [0, 1, 2, 3]].clone().index_copy(
        1, torch.tensor([0, 2]), torch.tensor([[[2.0, 0.15], [2.0, 0.15]]])))  # fmt: skip


def test_several_go_into_one():
    pairs = matched(X, torch.tensor([[0]]), 3)
    torch.testing.assert_close(pairs.merged(X), X.mean(1, keepdim=True))
    torch.testing.assert_close(pairs.parted(X.mean(1, keepdim=True)), X.mean(1, keepdim=True).expand(-1, 4, -1))


def test_tokens_come_back_to_their_places():
    x = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0))
    pairs = matched(x, torch.tensor([[0, 3, 9], [5, 7, 12]]), 0)
    assert torch.equal(pairs.parted(pairs.merged(x)), x)


class Seen(Patch):
    """Tokens that entered self-attention, cross-attention and feed-forward, by role."""

    def __init__(self):
        self.tokens = {}

    def sites(self, net):
        return [*net.attention(), *[s for s in net.units if s.role == "feedforward"]]

    def around(self, call):
        if "image" in call:
            self.tokens.setdefault(call.site.role, set()).add(call["image"].shape[1])
        return call()


def test_where_it_merges():
    seen = Seen()
    run("unet-sdxl", [TokenMerging(0.5), seen], size=16)
    assert seen.tokens["self"] == {32} and seen.tokens["cross"] == {64}
    seen = Seen()
    run("unet", [TokenMerging(0.75, cross=True, feedforward=True), seen])
    assert seen.tokens == {"self": {16}, "cross": {16}, "feedforward": {16}}


@pytest.mark.parametrize("name", ["unet", "sd3", "pixart", "dit"])
def test_a_batch_is_its_singles(name):
    patches = [TokenMerging(0.5, feedforward=True)]
    whole = run(name, patches).x
    for i in range(3):
        alone = run(name, patches, slice(i, i + 1)).x
        assert (alone - whole[i : i + 1]).abs().max() <= 1e-5 * whole.abs().max()


def test_ratio_0_is_bit_identical():
    assert torch.equal(run("unet", [TokenMerging(0.0)]).x, run("unet").x)


def test_destinations_are_drawn_anew_for_another_seed():
    first, second = (run("unet", [TokenMerging(0.5)], noise=k).x for k in (0, 1))
    assert not torch.equal(first, second)


def test_operations_fall():
    def cost(patches):
        return operations(lambda: run("dit", patches, steps=1))

    assert cost([TokenMerging(0.5, feedforward=True)]) < 0.75 * cost([])


@pytest.mark.parametrize("bad", [{"ratio": 1.5}, {"stride": 1}, {"downsample": 0}])
def test_bad_numbers_are_named(bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        TokenMerging(**bad)


@pytest.mark.parametrize("name", ["flux", "unet-class"])
def test_other_networks_are_refused(name):
    with pytest.raises(Refused, match="TokenMerging"):
        run(name, [TokenMerging()])
