"""DeepCache: which units run when, what is remembered, and for whom."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suffuse.caching import DeepCache
from suffuse.caching.deepcache import refreshes
from suffuse.caching.probe import Recorder
from suffuse.core.engine import sample, trace
from suffuse.core.errors import BadInput, Refused
from suffuse.core.patch import Patch
from suffuse.evaluation.operations import operations
from suffuse.guidance import CFG, AdaptiveGuidance
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states

UNETS = ("unet", "unet-sdxl", "unet-v", "unet-class")


def run(name, patches=(), rows=slice(0, 2), steps=6, x=None, **change):
    settings = {"sampler": DDIM(), "steps": steps, "guidance": CFG(3.0), **change}
    ids, x = list(range(4))[rows], states(name, 4)[rows] if x is None else x
    return sample(fixture(name), x, cond=conditions(name, 4)[rows], patches=patches, samples=ids, **settings)


def close(a, b):
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


class Ran(Patch):
    """Names of the units that really ran, step by step."""

    def __init__(self):
        self.names = []

    def sites(self, net):
        return net.units

    def around(self, call):
        self.names.append((call.at.i, call.site.name))
        return call()


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("branch", [0, 1])
def test_retrieving_steps_run_only_the_shallow_layers(name, branch):
    ran = Ran()
    run(name, [DeepCache(every=3, branch=branch), ran], guidance=CFG(1.0))
    everything = [s.name for s in fixture(name).sites.units]
    for i in range(6):
        at = [n for step, n in ran.names if step == i]
        if i % 3 == 0:
            assert at == everything
        else:
            assert 0 < len(at) < len(everything) and not any("mid" in n for n in at)
            assert at[0] == "conv_in" and at[-1] == "conv_out"
            assert sum(".resnets." in n and n.startswith("up") for n in at) == branch + 1


@pytest.mark.parametrize("branch", [0, 1])
def test_what_enters_the_decoder_is_the_feature_of_the_last_full_step(branch):
    cache = DeepCache(every=2, branch=branch)
    entry = cache.sites(fixture("unet").sites)[-1].name
    seen, whole = Recorder((entry,)), Recorder((entry,))
    *states_, _ = run("unet", [seen, cache], steps=4, save=lambda run: (run.state.x, run.at)).saved
    for x, at in states_:  # the network without a cache at the same states
        run("unet", [whole], x=x, steps=4, start=at.t.item(), stop=at.s.item())
    reused, computed = seen.features(entry), whole.features(entry)
    for i in range(4):
        assert torch.equal(reused[:, i], computed[:, i - i % 2])
        assert torch.equal(reused[:, i], computed[:, i]) == (i % 2 == 0)


@pytest.mark.parametrize("name", UNETS)
def test_every_1_is_bit_identical(name):
    assert torch.equal(run(name, [DeepCache(every=1)]).x, run(name).x)


@pytest.mark.parametrize("name", UNETS)
def test_a_batch_is_its_singles(name):
    patches = [DeepCache(every=2)]
    whole = run(name, patches).x
    close(run(name, patches, rows=slice(0, 1)).x, whole[:1])
    close(run(name, patches, rows=slice(1, 2)).x, whole[1:])


def test_branches_of_guidance_are_cached_apart():
    # at scale 1 only the conditional branch runs; it must not see what the unconditional one stored
    mixed = run("unet", [DeepCache(every=3)], guidance=CFG(0.0)).x
    swapped = conditions("unet", 4)[0:2].branch("null")
    alone = sample(
        fixture("unet"), states("unet", 4)[:2], cond=swapped, sampler=DDIM(), steps=6, patches=[DeepCache(every=3)]
    ).x
    close(mixed, alone)


def test_samples_that_stop_guiding_keep_their_cache():
    patches, guidance = [DeepCache(every=2)], AdaptiveGuidance(3.0, threshold=0.999)
    whole = run("unet", patches, rows=slice(0, 4), guidance=guidance)
    for i in range(4):
        alone = run("unet", patches, rows=slice(i, i + 1), guidance=guidance)
        assert alone.nfe[0] == whole.nfe[i]
        close(alone.x, whole.x[i : i + 1])


def test_only_one_feature_is_kept_for_each_branch():
    *_, last = trace(
        fixture("unet"), states("unet", 1), sampler=DDIM(), steps=3, cond=conditions("unet", 1), patches=[DeepCache()]
    )
    blocks = [b for blocks in last.state.memory.entries.values() for b in blocks]
    stored = [v for b in blocks for v in torch.utils._pytree.tree_leaves(b.value) if isinstance(v, torch.Tensor)]
    assert sum(v.untyped_storage().nbytes() > 4 for v in stored) == 1


def test_image_to_image_starts_with_a_fresh_step():
    ran = Ran()
    run("unet", [DeepCache(every=3), ran], steps=10, start=0.65)
    first = min(i for i, _ in ran.names)
    assert first == 3 and any("mid" in n for i, n in ran.names if i == first)


def test_macs_fall():
    def macs(patches):
        return operations(lambda: run("unet", patches))

    assert macs([DeepCache(every=3)]) < 0.8 * macs([])


@given(st.integers(1, 100), st.integers(1, 12), st.floats(1, 2), st.floats(0, 1))
def test_refreshes_are_as_many_as_asked(n, every, power, centre):
    steps = refreshes(n, every, power, centre)
    assert 0 in steps and all(0 <= i < n for i in steps)
    assert len(steps) == -(-n // every)


def test_refreshes_are_dense_around_the_centre():
    steps = sorted(refreshes(50, 5, 1.4, 0.3))
    gaps = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    assert gaps.index(min(gaps)) in range(2, 6) and max(gaps) == gaps[-1]


def test_fit_finds_a_schedule():
    found = DeepCache.fit(
        fixture("unet"), states("unet", 2), every=3, steps=9, sampler=DDIM(), cond=conditions("unet", 2)
    )
    assert found.every == 3 and 1 <= found.power <= 2


@pytest.mark.parametrize("bad", [{"every": 0}, {"every": 1.5}, {"branch": -1}, {"power": 0.5}, {"centre": 2.0}])
def test_bad_numbers_are_named(bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        DeepCache(**bad)


def test_other_networks_are_refused():
    with pytest.raises(Refused, match="no skip connections"):
        run("sd3", [DeepCache()])
    with pytest.raises(Refused, match="branches 0 to"):
        run("unet", [DeepCache(branch=99)])


def test_the_centre_may_be_the_end():
    assert refreshes(3, 2, 2.0, 1.0) == {0, 2}
