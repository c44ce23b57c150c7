"""TaylorSeer: forecasts by hand, order 0 as plain reuse, rows apart."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from suffuse.caching import TaylorSeer
from suffuse.caching.policy import CacheTable
from suffuse.core.engine import sample, trace
from suffuse.core.errors import BadInput
from suffuse.core.patch import Patch
from suffuse.evaluation.operations import operations
from suffuse.guidance import CFG, AdaptiveGuidance
from suffuse.samplers import DDIM, Euler, Heun
from suffuse.testing.fixtures import NAMES, conditions, fixture, states


def run(name, patches=(), rows=slice(0, 2), steps=8, **change):
    settings = {"sampler": DDIM(), "steps": steps, "guidance": CFG(3.0), **change}
    ids, net, x = list(range(4))[rows], fixture(name), states(name, 4)[rows]
    return sample(net, x, cond=conditions(name, 4)[rows], patches=patches, samples=ids, **settings)


def close(a, b):
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@dataclass(frozen=True)
class Given(Patch):
    """Lets one feed-forward return a polynomial of time."""

    powers: tuple = (1.0, 2.0, 0.0)

    def sites(self, net):
        return [next(s for s in net.units if s.role == "feedforward")]

    def around(self, call):
        like = call()
        return sum(c * call.t**k * torch.ones_like(like) for k, c in enumerate(self.powers))


class Seen(Patch):
    """What that feed-forward returned, by step."""

    def __init__(self):
        self.out = []

    sites = Given.sites

    def around(self, call):
        out = call()
        self.out.append((call.t.item(), float(out.mean())))
        return out


def forecast(order, powers, steps=8, every=2):
    seen = Seen()
    run("unet", [seen, TaylorSeer(every, order), Given(powers)], steps=steps, guidance=None)
    return seen.out


def test_lines_are_forecast_exactly():
    for k, (t, out) in enumerate(forecast(1, (1.0, 2.0, 0.0))):
        if k != 1:  # no slope is known yet
            assert out == pytest.approx(1 + 2 * t, abs=1e-5)


def test_order_2_by_hand():
    out = forecast(2, (0.0, 0.0, 1.0), steps=6)
    (a, _), (b, _), (c, _), (d, at_d) = out[0], out[2], out[4], out[5]
    first, before = (c**2 - b**2) / (c - b), (b**2 - a**2) / (b - a)
    second = (first - before) / (c - b)
    assert at_d == pytest.approx(c**2 + first * (d - c) + second * (d - c) ** 2 / 2, abs=1e-5)


@dataclass(frozen=True)
class Reuse(CacheTable):
    """The same table without a forecast."""

    sites = TaylorSeer.sites
    every = 3
    steps = TaylorSeer.steps


@pytest.mark.parametrize("name", ["unet", "sd3", "flux"])
def test_order_0_is_plain_reuse(name):
    assert torch.equal(run(name, [TaylorSeer(3, 0)]).x, run(name, [Reuse()]).x)


@pytest.mark.parametrize("name", NAMES)
def test_every_1_is_bit_identical(name):
    assert torch.equal(run(name, [TaylorSeer(1, 2)], steps=4).x, run(name, steps=4).x)


@pytest.mark.parametrize("name", ["unet", "flux"])
def test_units_are_not_run(name):
    def cost(patches):
        return operations(lambda: run(name, patches, steps=4))

    assert cost([TaylorSeer(4)]) < cost([])


def test_forecasts_are_nearer_than_reuse():
    full = run("sd3", steps=24, sampler=Euler()).x
    far = [(run("sd3", [TaylorSeer(2, m)], steps=24, sampler=Euler()).x - full).norm() for m in (0, 1, 2)]
    assert far[1] < 0.8 * far[0]


def test_samples_that_pause_keep_their_own_slopes():
    patches, guidance = [TaylorSeer(2, 2)], AdaptiveGuidance(3.0, threshold=0.999)
    whole = run("unet", patches, slice(0, 4), guidance=guidance)
    for i in range(4):
        alone = run("unet", patches, slice(i, i + 1), guidance=guidance)
        assert alone.nfe[0] == whole.nfe[i]
        close(alone.x, whole.x[i : i + 1])


def test_a_sampler_that_asks_twice_at_one_time():
    assert torch.isfinite(run("sd3", [TaylorSeer(2, 2)], sampler=Heun(), steps=6).x).all()


def test_window_at_the_start_computes_everything():
    kept = run("sd3", [TaylorSeer(3).during(0.5, 1.0)], save=lambda r: r.state.x).saved
    full = run("sd3", save=lambda r: r.state.x).saved
    assert all(torch.equal(kept[i], full[i]) for i in range(5))


def test_nothing_is_shared_between_runs():
    first = [r.state.x for r in trace(fixture("sd3"), states("sd3", 1), sampler=DDIM(), steps=3,
                                      cond=conditions("sd3", 1), patches=[TaylorSeer(2)])]  # fmt: skip
    again = [r.state.x for r in trace(fixture("sd3"), states("sd3", 1), sampler=DDIM(), steps=3,
                                      cond=conditions("sd3", 1), patches=[TaylorSeer(2)])]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("bad", [{"every": 0}, {"order": -1}, {"order": 0.5}])
def test_bad_numbers_are_named(bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        TaylorSeer(**bad)
