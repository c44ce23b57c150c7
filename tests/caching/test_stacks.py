"""Stacks: compared, chosen, kept in a file and run from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import suffuse
from suffuse.caching import DeepCache
from suffuse.caching.stacks import AccelerationPlan, Option, Recipe, Stack, load_recipe
from suffuse.core.errors import Damaged, Refused
from suffuse.core.metric import Estimate
from suffuse.core.tuned import Mode
from suffuse.guidance import CFG
from suffuse.samplers import DDIM, UniPC

FEW = Option("steps", {"sampler": UniPC(), "steps": 2})
CACHE = Option("depth", {"patches": [DeepCache(2)]})
NEAR = Option("bits", modes={"mode": Mode(dtype="bfloat16")})
BASE = {"sampler": DDIM(), "steps": 9, "guidance": CFG(2), "patches": []}


def stack(macs, error, *options, time=None, low=None):
    seconds = macs if time is None else time
    return Stack(
        options,
        macs,
        1.0,
        Estimate(seconds, (seconds, seconds), 5),
        Estimate(error, (error if low is None else low, error), 2),
    )


def plan(*stacks, budget=0.5):
    return AccelerationPlan("m", budget, 1.1, BASE, stacks)


def test_front_and_best():
    found = plan(stack(1, 1), stack(0.6, 0.9), stack(0.5, 1.05), stack(0.4, 1.2), stack(0.6, 1.3))
    assert [s.macs for s in found.front] == [0.6, 0.5, 0.4]
    assert found.best is found.stacks[2]
    with pytest.raises(Refused, match="allow more work"):
        replace(found, budget=0.3).recipe()


def test_of_stacks_that_the_prompts_do_not_tell_apart_the_fastest_is_best():
    least, near = stack(0.4, 1.01), stack(0.4, 1.02, NEAR, time=0.3, low=0.98)
    surely_worse = stack(0.2, 1.09, FEW, low=1.05)
    assert plan(least, near, surely_worse).best is near
    assert plan(least, replace(near, time=Estimate(0.41, (0.4, 0.42), 5))).best is least
    assert plan(least, near, budget=0.3).best is None


def test_patches_run_together_and_of_everything_else_the_last_one_holds():
    recipe = plan().recipe(stack(1, 1, FEW, CACHE, Option("tokens", {"patches": [DeepCache(3)]}), NEAR))
    settings = {"sampler": UniPC(), "steps": 2, "guidance": CFG(2), "patches": [DeepCache(2), DeepCache(3)]}
    assert recipe == Recipe(settings, {"mode": Mode(dtype="bfloat16")})
    assert Recipe.of(BASE, ()) == Recipe(BASE) and BASE["patches"] == []


def test_a_recipe_is_kept_with_its_mode_and_runs(tmp_path):
    best = stack(0.2, 1.0, FEW, CACHE, NEAR)
    recipe = load_recipe(plan(best).save(tmp_path / "plan.json"))
    assert recipe == plan(best).recipe()
    model = suffuse.load("digits")
    fast = recipe.on(model)
    assert fast.modes == recipe.modes and model.modes == {}
    assert fast.generate("3", **recipe.settings).nfe.tolist() == [4]
    assert Recipe(BASE).on(model) is model


def test_tables_say_what_differs_from_the_plain_mode():
    (row,) = plan(stack(0.2, 1.0, FEW, NEAR)).table()
    assert row["stack"] == "sampler UniPC(), steps 2; mode Mode(dtype='bfloat16')" and row["best"] and row["front"]


@pytest.mark.parametrize("text", ["[]", '{"recipe": {}, "modes": {"mode": {"bits": 4}}}'])
def test_what_is_no_plan(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(Damaged, match="not a plan"):
        load_recipe(tmp_path / "x.json")
