"""RAS: what is left out, who decides it, and that nothing is lost where nothing changes."""

from __future__ import annotations

import pytest
import torch

from suffuse.caching import RAS
from suffuse.caching.token_subset import pick, put
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.grid import Grid
from suffuse.core.guidance import Guidance
from suffuse.core.patch import Patch
from suffuse.evaluation.operations import operations
from suffuse.guidance import CFG, AdaptiveGuidance
from suffuse.samplers import DDIM, DDPM, Euler, Heun
from suffuse.testing.fixtures import conditions, fixture, states

TRANSFORMERS = ("sd3", "flux", "pixart", "dit")
EARLY = {"dense": 0.2, "resets": ()}


def run(name, patches=(), rows=slice(0, 3), steps=7, **change):
    settings = {"sampler": DDIM(), "steps": steps, "guidance": CFG(3.0), **change}
    ids, x = list(range(4))[rows], states(name, 4)[rows]
    return sample(fixture(name), x, cond=conditions(name, 4)[rows], patches=patches, samples=ids, **settings)


def close(a, b):
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


class Widths(Patch):
    """Image tokens that entered the second layer, step by step."""

    def __init__(self):
        self.seen = []

    def sites(self, net):
        return [net.blocks[1]]

    def around(self, call):
        self.seen.append((call.at.i, call["image"].shape[1], call["text"].shape[1] if "text" in call else 0))
        return call()


def test_tokens_are_picked_and_put_back():
    x, index = torch.randn(2, 3, 5, 4), torch.tensor([[0, 2], [1, 4]])
    part = pick(x, index)
    assert torch.equal(part[1, 2], x[1, 2, [1, 4]])
    whole = put(x, index, -part)
    assert torch.equal(whole[0, :, [0, 2]], -x[0, :, [0, 2]]) and torch.equal(
        whole[0, :, [1, 3, 4]], x[0, :, [1, 3, 4]]
    )


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("text", [True, False])
def test_at_rest_tokens_that_are_left_out_lose_nothing(name, text):
    grid, settings = Grid(torch.full((5,), 0.6, dtype=torch.float64)), {"steps": 4, "guidance": CFG(3.0)}
    ran = Widths()
    found = run(name, [RAS(0.3, text=text, **EARLY), ran], grid=grid, **settings).x
    assert {tokens for _, tokens, _ in ran.seen} == {16, 5}
    close(found, run(name, grid=grid, **settings).x)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_ratio_1_is_bit_identical(name):
    assert torch.equal(run(name, [RAS(1.0)]).x, run(name).x)


def test_steps_and_tokens():
    ran = Widths()
    run("sd3", [RAS(0.5, dense=0.3, resets=(0.7,), drift=0.5, text=False), ran], steps=10, guidance=CFG(1.0))
    assert [(i, tokens) for i, tokens, _ in ran.seen] == [
        (0, 16), (1, 16), (2, 16), (3, 6), (4, 7), (5, 8), (6, 9), (7, 16), (8, 10), (9, 11)
    ]  # fmt: skip
    assert [text for *_, text in ran.seen] == [5, 5, 5, 0, 0, 0, 0, 5, 0, 0]


@pytest.mark.parametrize("name", ["sd3", "flux", "dit"])
def test_a_batch_is_its_singles(name):
    whole = run(name, [RAS(0.4, **EARLY)]).x
    for i in range(3):
        close(run(name, [RAS(0.4, **EARLY)], slice(i, i + 1)).x, whole[i : i + 1])


@pytest.mark.parametrize("high", [0.0, 0.5, 1.0])
def test_what_is_left_out_long_comes_back(high):
    counts = RAS.focus(run("sd3", [RAS(0.5, high, starvation=5.0, **EARLY)], steps=12).state)
    assert counts.shape == (3, 4, 4) and (counts.flatten(1).sum(1) == 8 * 10).all()
    assert counts.max() - counts.min() <= 2  # 10 sparse steps, half of the tokens at each


def test_without_starvation_the_same_are_left_out_again():
    counts = RAS.focus(run("sd3", [RAS(0.5, 0.0, starvation=0.0, **EARLY)], steps=12).state)
    assert counts.max() - counts.min() > 4


class Apart(Guidance):
    """CFG that asks one branch after the other."""

    def __call__(self, predict, x, t, cond, at):
        c, n = predict(x, t, cond, "cond"), predict(x, t, cond.branch("null"), "null")
        return c.mix([3.0, -2.0], [c, n])


def test_branches_leave_out_the_same():
    joint, apart = (run("sd3", [RAS(0.4, **EARLY)], guidance=g) for g in (CFG(3.0), Apart()))
    assert torch.equal(RAS.focus(joint.state), RAS.focus(apart.state))
    close(apart.x, joint.x)


def test_samples_that_stop_guiding_are_alone_what_they_are_together():
    patches, guidance = [RAS(0.5, **EARLY)], AdaptiveGuidance(3.0, threshold=0.999)
    whole = run("sd3", patches, slice(0, 4), guidance=guidance)
    for i in range(4):
        alone = run("sd3", patches, slice(i, i + 1), guidance=guidance)
        assert alone.nfe[0] == whole.nfe[i]
        close(alone.x, whole.x[i : i + 1])


@pytest.mark.parametrize("sampler", [Euler(), Heun(), DDPM()])
def test_other_samplers(sampler):
    assert torch.isfinite(run("dit", [RAS(0.5, **EARLY)], sampler=sampler).x).all()


def test_operations_fall():
    def cost(patches):
        return operations(lambda: run("dit", patches, steps=8))

    assert cost([RAS(0.25, dense=0.125, resets=())]) < 0.5 * cost([])


@pytest.mark.parametrize(
    "bad", [{"ratio": 0.0}, {"high": 2.0}, {"starvation": -1.0}, {"resets": (1.5,)}, {"drift": 3.0}]
)
def test_bad_numbers_are_named(bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        RAS(**bad)


def test_unets_are_refused():
    with pytest.raises(Refused, match="DeepCache"):
        run("unet", [RAS()])


def test_caches_of_whole_layers_are_refused_beside_it():
    from suffuse.caching import FirstBlockCache, TaylorSeer

    for cache in (FirstBlockCache(0.1), TaylorSeer(2)):
        with pytest.raises(Refused, match="as many tokens at every step and RAS"):
            sample(fixture("sd3"), states("sd3", 2), sampler=Euler(), steps=2, cond=conditions("sd3", 2),
                   patches=[RAS(), cache])  # fmt: skip
