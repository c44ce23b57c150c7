"""Searching stacks: what is measured, and what is tried next."""

from __future__ import annotations

from functools import cache

import pytest

import suffuse
from suffuse.caching import DeepCache, plan_acceleration
from suffuse.caching.planning import NEAR, _promising, options_for
from suffuse.caching.stacks import AccelerationPlan, Option, Stack
from suffuse.core.errors import BadInput
from suffuse.core.metric import Estimate
from suffuse.guidance import CFG
from suffuse.samplers import UniPC

FEW = Option("steps", {"sampler": UniPC(), "steps": 2})
CACHE = Option("depth", {"patches": [DeepCache(2)]})


@cache
def plan() -> AccelerationPlan:
    model = suffuse.load("digits")
    return plan_acceleration(model, ["3", "5"], options=[FEW, CACHE], budget=0.5, tolerance=1e9, steps=4, rounds=5)


def stack(macs, error, *options):
    number = Estimate(error, (error, error), 2)
    return Stack(options, macs, 1.0, number, number)


def test_the_baseline_each_option_and_their_stack_are_measured():
    stacks = plan().stacks
    assert [s.options for s in stacks] == [(), (FEW,), (CACHE,), (FEW, CACHE)]
    assert stacks[0].macs == stacks[0].time.mean == stacks[0].error.mean == 1.0
    assert 0.49 < stacks[1].macs < 0.51 and stacks[3].macs < min(s.macs for s in stacks[:3])
    assert all(s.error.mean > 1.0 for s in stacks[1:])


def test_by_default_half_the_steps_have_the_largest_error_that_is_tolerated():
    half = Option("steps", {"steps": 1})
    found = plan_acceleration(suffuse.load("digits"), ["3", "5"], options=[half], budget=0.6, steps=2, most=1)
    assert found.stacks[1].error.mean == pytest.approx(1.1)


def test_a_mode_takes_part_and_saves_no_multiplications():
    def size(images, prompts):
        return images.latents.square().flatten(1).mean(1)

    model, few, mode = suffuse.load("digits"), Option("steps", {"steps": 1}), Option("bits", modes={"mode": NEAR})
    found = plan_acceleration(model, ["3", "5"], options=[few, mode], error=size, budget=0.9, steps=2, most=1)
    plain, less, near, both = found.stacks
    assert both.options == (few, mode) and (near.macs, both.macs) == (plain.macs, less.macs)
    assert near.error.mean != 1.0 and found.recipe(both).on(model).modes == {"mode": NEAR}


def test_what_two_options_do_to_each_other_counts_when_a_third_joins():
    few, window, cache = FEW, Option("guidance", {"guidance": CFG(2).during(0.0, 0.5)}), CACHE
    measured = [stack(1, 1), stack(0.2, 1.1, few), stack(0.8, 1.0, window), stack(0.5, 1.2, cache)]
    assert _promising(measured, 0.5) == (few, window)
    measured.append(stack(0.16, 1.9, few, window))
    assert _promising(measured, 0.5) == (window, cache)
    measured.append(stack(0.4, 1.2, window, cache))
    assert _promising(measured, 0.5) == (few, cache)
    measured.append(stack(0.1, 1.3, few, cache))
    assert _promising(measured, 0.5) == (few, window, cache)
    measured.append(stack(0.08, 2.0, few, window, cache))
    assert _promising(measured, 0.5) is None and _promising(measured[:4], 0.05) is None


def test_options_come_from_the_registry():
    found = options_for(suffuse.load("digits"))
    said = [str(o) for o in found]
    assert any("DeepCache" in s for s in said) and not any("FirstBlockCache" in s for s in said)
    assert {"steps", "guidance", "depth", "bits"} <= {o.axis for o in found}
    assert found[-1].modes == {"mode": NEAR}  # pictures of digits are not decoded
    assert not any("DeeDiff" in str(o) for o in options_for(suffuse.load("shapes-flow")))  # it waits for trained heads


def test_what_cannot_be_planned():
    model = suffuse.load("digits")
    with pytest.raises(BadInput, match="share of the work"):
        plan_acceleration(model, ["3"], budget=2.0)
    with pytest.raises(BadInput, match="steps=1: .*give 2 or more"):
        plan_acceleration(model, ["3"], steps=1)
    with pytest.raises(BadInput, match="axis 'speed' is none of"):
        plan_acceleration(model, ["3"], options=[Option("speed", {})])
