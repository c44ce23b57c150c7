"""AutoDiffusion: what is skipped, what is searched, and what a policy refuses."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse import load_method, save_method
from suffuse.caching.autodiffusion import AutoDiffusion
from suffuse.caching.schedule_space import ScheduleSpace
from suffuse.caching.skipping import layers_of, skippable
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.plugin import Setting
from suffuse.core.value import Coef
from suffuse.samplers import DDIM, Heun
from suffuse.search import Evolution
from suffuse.testing.checks.subject import denoiser, states
from suffuse.testing.fixtures import NAMES, conditions

TIMES = (1.0, 0.6, 0.3, 0.0)


def policy(name: str, *skipped: tuple[str, ...]) -> AutoDiffusion:
    return AutoDiffusion(skipped, Setting(process=str(denoiser(name).process), times=TIMES))


def run(name: str, found: AutoDiffusion, **settings):
    net = denoiser(name)
    how = {"sampler": DDIM(), "spacing": found, "patches": [found], "cond": conditions(name, 2), **settings}
    return sample(net, states(name, 2), **how)


def names_of(name: str) -> list[str]:
    return skippable(denoiser(name), states(name, 1), Coef(0.5), conditions(name, 1))


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_that_is_called_skippable_can_be_skipped(name):
    names = names_of(name)
    assert names and set(names) < {s.name for s in layers_of(denoiser(name).sites)}
    plain = run(name, policy(name, (), (), ())).x
    for layer in names:
        x = run(name, policy(name, (), (layer,), ())).x
        assert x.shape == plain.shape and bool(torch.isfinite(x).all()) and not torch.equal(x, plain), layer
    assert torch.isfinite(run(name, policy(name, (), tuple(names), ())).x).all()


def test_layers_that_change_the_shape_are_not_skippable():
    names, net = names_of("unet"), denoiser("unet")
    for site in layers_of(net.sites):
        module = net.net.get_submodule(site.name)
        if site.role in ("in", "out", "down", "up") or getattr(module, "conv_shortcut", None) is not None:
            assert site.name not in names, site.name
        elif site.role == "resnet":
            assert site.name in names


def test_a_skipped_layer_is_the_identity_and_does_not_run():
    """A resnet whose residual branch is zero is the identity already; skipping it changes nothing, and runs nothing."""
    net, calls = denoiser("unet"), []
    name = next(n for n in names_of("unet") if "resnets" in n)
    module = net.net.get_submodule(name)
    with torch.no_grad():
        kept = [p.clone() for p in module.conv2.parameters()]
        for p in module.conv2.parameters():
            p.zero_()
    handle = module.conv2.register_forward_hook(lambda *_: calls.append(1))
    try:
        plain = run("unet", policy("unet", (), (), ())).x
        assert len(calls) == 3
        assert torch.equal(run("unet", policy("unet", (name,), (), (name,))).x, plain) and len(calls) == 4
    finally:
        handle.remove()
        with torch.no_grad():
            for p, value in zip(module.conv2.parameters(), kept, strict=True):
                p.copy_(value)


def test_steps_of_several_evaluations_skip_in_each():
    name = names_of("unet")[0]
    run("unet", policy("unet", (name,), (), ()), sampler=Heun())


SPACE = ScheduleSpace(N=40, end=0.1, layers=10, skippable=6, share=0.4, budget=36.0)


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_candidates_are_within_the_space(seed):
    chance = Random(seed)
    one, other = SPACE.random(chance), SPACE.of([1.0, 0.8, 0.5, 0.3])
    made = [one, SPACE.mutated(other, 0.5, chance), SPACE.mutated(one, 0.5, chance), SPACE.crossed(one, other, chance)]
    for candidate in filter(None, made):
        timesteps = [k for k, _ in candidate]
        assert timesteps == sorted(set(timesteps), reverse=True) and set(timesteps) <= set(range(4, 40))
        assert all(len(skip) <= SPACE.most and skip <= set(range(6)) for _, skip in candidate)
        assert SPACE.holds(candidate) and SPACE.times(candidate)[-1] == 0.1
    assert one is not None and len(one) >= 3


def test_layers_are_really_mutated():
    """Of skipped layers, each is replaced by one that was not skipped, and as many stay skipped."""
    wide, chance = ScheduleSpace(N=40, end=0.0, layers=10, skippable=8, share=0.4, budget=40.0), Random(0)
    old = ((39, frozenset({0, 1, 2})),)
    seen = {wide.mutated(old, 1.0, chance)[0][1] for _ in range(50)}
    assert all(len(skip) == 3 and not skip & {0, 1, 2} for skip in seen) and len(seen) > 5


def test_more_steps_where_layers_are_skipped():
    spaces = [ScheduleSpace(N=40, end=0.0, layers=10, skippable=6, share=s, budget=40.0) for s in (0.0, 0.6)]
    lengths = [{len(space.random(Random(k))) for k in range(40)} for space in spaces]
    assert lengths[0] == {4} and max(lengths[1]) > 4


def distance_to(goal):
    return lambda x: float((x - goal).square().mean())


def test_the_times_of_a_known_run_are_found_again():
    """The score is the distance to the states of a run at certain times, among eight."""
    net, x = denoiser("mixture"), states("mixture", 3)
    process = str(net.process)
    hidden = AutoDiffusion(((), ()), Setting(process=process, times=(0.9, 0.2, 0.0)))
    goal = sample(net, x, sampler=DDIM(), spacing=hidden).x
    seen = []
    found = AutoDiffusion.search(
        net, x, distance=distance_to(goal), steps=2, sampler=DDIM(), rounds=6, evolution=Evolution.of(20),
        report=lambda scores: seen.append((len(scores.known), min(scores.known.values()))),
    )  # fmt: skip
    first = distance_to(goal)(sample(net, x, sampler=DDIM(), steps=2).x)
    last = distance_to(goal)(sample(net, x, sampler=DDIM(), spacing=found, patches=[]).x)
    assert last == seen[-1][1] < 0.05 * first and [n for n, _ in seen] == [20, 40, 60, 80, 100, 120]
    assert found.skipped == ((), ()) and len(found.made_for.times) == 3


def test_layers_are_left_out_within_the_budget():
    net, x = denoiser("unet"), states("unet", 2)
    settings = {"sampler": DDIM(), "cond": conditions("unet", 2)}
    goal = sample(net, x, steps=10, **settings).x
    found = AutoDiffusion.search(
        net,
        x,
        distance=distance_to(goal),
        steps=2,
        layers=0.9,
        max_prune=0.3,
        rounds=4,
        evolution=Evolution.of(6),
        **settings,
    )
    total = len(layers_of(net.sites))
    spent = sum(total - len(step) for step in found.skipped)
    assert spent <= 0.9 * 2 * total and set().union(*found.skipped) <= set(names_of("unet"))
    assert len(found.skipped) == len(found.made_for.times) - 1
    assert torch.isfinite(sample(net, x, spacing=found, patches=[found], **settings).x).all()


def test_a_policy_is_kept_and_refused_elsewhere(tmp_path):
    found = policy("unet", (), (names_of("unet")[0],), ())
    assert load_method(save_method(found, tmp_path / "policy.safetensors")) == found
    with pytest.raises(Refused, match="fitted for process"):
        run("sd3", found)
    with pytest.raises(Refused, match="fitted for times"):
        run("unet", found, spacing=None, steps=3)
    with pytest.raises(Refused, match="fitted for model"):
        run("unet", found, setting=Setting(model="another"))
    with pytest.raises(Refused, match="has no layer nowhere"):
        run("unet", policy("unet", (), ("nowhere",), ()))
    with pytest.raises(BadInput, match="one time more"):
        AutoDiffusion(((),), Setting(times=TIMES))


def test_impossible_searches_are_refused():
    net, x = denoiser("unet"), states("unet", 2)
    settings = {"distance": distance_to(x), "steps": 2, "sampler": DDIM(), "cond": conditions("unet", 2)}
    for bad in ({"layers": 0.5}, {"layers": 0.0}, {"rounds": 0}, {"max_prune": 0.2, "rounds": 1}, {"max_prune": 1.5}):
        with pytest.raises(BadInput, match="max_prune from"):
            AutoDiffusion.search(net, x, **settings, **bad)
    with pytest.raises(BadInput, match="can be left out"):
        AutoDiffusion.search(net, x, layers=0.1, max_prune=0.9, rounds=2, evolution=Evolution.of(2), **settings)
    with pytest.raises(Refused, match="no network"):
        AutoDiffusion.search(
            denoiser("mixture"), states("mixture", 2), distance=float, steps=2, sampler=DDIM(), max_prune=0.2
        )
