"""PAB, FasterCache and CFGCache: which steps compute, and what stands in for the rest."""

from __future__ import annotations

import pytest
import torch

from suffuse.caching import PAB, CFGCache, FasterCache
from suffuse.caching.faster_cache import low_pass
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.patch import Patch
from suffuse.core.site import Site
from suffuse.guidance import CFG
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states


def run(name, patches=(), rows=slice(0, 2), steps=8, **change):
    settings = {"sampler": DDIM(), "steps": steps, "guidance": CFG(3.0), **change}
    ids, x = list(range(3))[rows], states(name, 3)[rows]
    return sample(fixture(name), x, cond=conditions(name, 3)[rows], patches=patches, samples=ids, **settings)


def test_ranges_by_type_within_the_window():
    cross, joint = (Site("a", None, "attention", role) for role in ("cross", "joint"))
    policy = PAB(2, 5, 0.2, 0.8)
    assert sorted(policy.steps(joint, 10)) == [0, 1, 2, 4, 6, 8, 9]
    assert sorted(policy.steps(cross, 10)) == [0, 1, 5, 8, 9]


class Seen(Patch):
    """What the first attention returned, by step."""

    def __init__(self):
        self.out = []

    def sites(self, net):
        return net.attention("self")[:1]

    def around(self, call):
        self.out.append(call())
        return self.out[-1]


def test_broadcast_and_extrapolation():
    seen = Seen()
    run("dit", [seen, PAB(2, 6, 0.0, 1.0)], steps=4, guidance=None)
    assert torch.equal(seen.out[1], seen.out[0]) and torch.equal(seen.out[3], seen.out[2])
    seen = Seen()
    run("dit", [seen, FasterCache(0.0)], steps=4, guidance=None)
    assert torch.equal(seen.out[1], seen.out[0])  # one output is known
    torch.testing.assert_close(seen.out[3], seen.out[2] + 0.75 * (seen.out[2] - seen.out[0]))


@pytest.mark.parametrize("name", ["unet", "sd3", "flux", "pixart", "dit"])
@pytest.mark.parametrize("patch", [PAB(), FasterCache(0.0)])
def test_neutral_is_bit_identical_and_a_batch_its_singles(name, patch):
    assert torch.equal(run(name, [patch.neutral()], steps=3).x, run(name, steps=3).x)
    whole = run(name, [patch]).x
    alone = run(name, [patch], slice(1, 2)).x
    assert (alone - whole[1:]).abs().max() <= 1e-5 * whole.abs().max()


def test_every_1_is_cfg():
    assert torch.equal(run("sd3", guidance=CFGCache(3.0, every=1)).x, run("sd3", guidance=CFG(3.0)).x)


def test_the_unconditional_branch_is_spared():
    result = run("sd3", guidance=CFGCache(3.0, every=4, start=0.25))
    assert result.nfe.tolist() == [8 + 3, 8 + 3]  # steps 0, 1, 4


def test_without_a_raise_the_last_difference_is_reused():
    x, cond, net = states("sd3", 1), conditions("sd3", 1), fixture("sd3")
    first, second = (s.x for s in run("sd3", rows=slice(0, 1), steps=3, guidance=CFGCache(3.0, 3, 0.0, 0.0),
                                      save=lambda r: r.state).saved[:2])  # fmt: skip
    d = net(x, 1.0, cond.branch("null")).value - net(x, 1.0, cond).value
    v = net(second, 2 / 3, cond).value
    expected = second - (v - 2.0 * d) / 3
    found = run("sd3", rows=slice(0, 1), steps=3, guidance=CFGCache(3.0, 3, 0.0, 0.0), save=lambda r: r.state).saved[2]
    torch.testing.assert_close(found.x, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(first, x)


def test_low_frequencies():
    wave = torch.cos(2 * torch.pi * torch.arange(8) / 8).expand(1, 1, 8, 8)
    fine = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
    torch.testing.assert_close(low_pass(wave + fine + 1.0, 0.25), wave + 1.0, atol=1e-6, rtol=0)


def test_what_cannot_be_is_refused():
    for make, word in (
        (lambda: PAB(0), "self_range"),
        (lambda: FasterCache(2.0), "start"),
        (lambda: CFGCache(every=0), "every"),
    ):
        with pytest.raises(BadInput, match=word):
            make()
    with pytest.raises(Refused, match="attention"):
        run("unet-class", [PAB()])
