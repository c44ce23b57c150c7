"""Stacks of options: measured, compared, chosen, kept in a file."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

import suffuse
from suffuse.caching import DeepCache, plan_acceleration
from suffuse.caching.planning import AccelerationPlan, Option, Stack, _promising, load_recipe, options_for
from suffuse.core.errors import BadInput, Damaged, Refused
from suffuse.core.metric import Estimate
from suffuse.guidance import CFG
from suffuse.samplers import DDIM, UniPC

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
    assert stacks[0].macs == 1.0 and stacks[0].error.mean == 1.0
    assert 0.49 < stacks[1].macs < 0.51 and stacks[3].macs < min(s.macs for s in stacks[:3])
    assert all(s.error.mean > 1.0 for s in stacks[1:])


def test_the_recipe_of_the_best_is_kept_and_runs(tmp_path):
    file = plan().save(tmp_path / "plan.json")
    recipe = load_recipe(file)
    assert recipe["steps"] == plan().recipe()["steps"] and recipe["patches"] == plan().recipe()["patches"]
    assert suffuse.load("digits").generate("3", **recipe).nfe.tolist() == [plan().best.nfe]


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


def test_best_and_front():
    found = AccelerationPlan(
        "m",
        0.5,
        1.1,
        {"patches": []},
        (stack(1, 1), stack(0.6, 0.9), stack(0.5, 1.05), stack(0.4, 1.2), stack(0.6, 1.3)),
    )
    assert [s.macs for s in found.front] == [0.6, 0.5, 0.4]
    assert found.best is found.stacks[2]
    with pytest.raises(Refused, match="allow more work"):
        replace(found, budget=0.3).recipe()


def test_patches_of_several_options_run_together():
    settings = {"sampler": DDIM(), "steps": 9, "guidance": CFG(2), "patches": []}
    found = AccelerationPlan("m", 0.5, 1.1, settings, ())
    recipe = found.recipe(stack(1, 1, FEW, CACHE, Option("tokens", {"patches": [DeepCache(3)]})))
    assert recipe == {"sampler": UniPC(), "steps": 2, "guidance": CFG(2), "patches": [DeepCache(2), DeepCache(3)]}


def test_options_come_from_the_registry():
    found = options_for(suffuse.load("digits"))
    said = [str(o) for o in found]
    assert any("DeepCache" in s for s in said) and not any("FirstBlockCache" in s for s in said)
    assert {"steps", "guidance", "depth"} <= {o.axis for o in found}
    assert not any("DeeDiff" in str(o) for o in options_for(suffuse.load("shapes-flow")))  # it waits for trained heads


def test_what_cannot_be_planned(tmp_path):
    model = suffuse.load("digits")
    with pytest.raises(BadInput, match="share of the work"):
        plan_acceleration(model, ["3"], budget=2.0)
    with pytest.raises(BadInput, match="axis 'speed' is none of"):
        plan_acceleration(model, ["3"], options=[Option("speed", {})])
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(Damaged, match="not a plan"):
        load_recipe(tmp_path / "x.json")
