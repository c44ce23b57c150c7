"""Adaptive Guidance: evaluations that are left out are really left out, sample by sample."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.plugin import Setting
from suffuse.guidance import CFG, AdaptiveGuidance, LinearAG, ScheduledCFG
from suffuse.guidance.adaptive import search_policy
from suffuse.processes import Absorbing
from suffuse.samplers import DDIM, Ancestral, Heun, RhoRK
from suffuse.testing.analytic import KnownLaw
from suffuse.testing.fixtures import conditions, fixture, states

NAMES = ("unet", "unet-v", "sd3", "pixart", "dit")
STEPS = 8


def settings(name, rows=slice(0, 4)):
    return {
        "denoiser": fixture(name),
        "x": states(name, 4)[rows],
        "cond": conditions(name, 4)[rows],
        "sampler": DDIM(),
        "steps": STEPS,
    }


def close(a, b):
    assert (a - b).abs().max() <= 2e-5 * b.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_switches_sample_by_sample(name):
    guidance = AdaptiveGuidance.fit(**settings(name), w=3.0, share=0.75)
    whole = sample(**settings(name), guidance=guidance)
    for i in range(4):
        alone = sample(**settings(name, slice(i, i + 1)), samples=[i], guidance=guidance)
        assert alone.nfe[0] == whole.nfe[i]
        close(alone.x, whole.x[i : i + 1])


def test_a_threshold_that_is_never_passed_is_cfg():
    for threshold in (1.1, -1.1):  # never above it; never below it, so never armed
        got = sample(**settings("unet"), guidance=AdaptiveGuidance(3.0, threshold))
        assert got.nfe.tolist() == [2 * STEPS] * 4
        assert torch.equal(got.x, sample(**settings("unet"), guidance=CFG(3.0)).x)


def test_calibration_spends_what_was_asked():
    guidance = AdaptiveGuidance.fit(**settings("unet"), w=3.0, share=0.8)
    spent = sample(**settings("unet"), guidance=guidance).nfe.double().mean() / (2 * STEPS)
    assert abs(spent - 0.8) < 0.1
    with pytest.raises(BadInput, match="share=0.4"):
        AdaptiveGuidance.fit(**settings("unet"), w=3.0, share=0.4)


def test_negative_prompts_take_the_place_of_null():
    one = sample(**settings("unet"), guidance=AdaptiveGuidance(3.0, 1.1)).x
    other = settings("unet")
    other["cond"] = other["cond"].with_alt(null=other["cond"][torch.tensor([1, 0, 3, 2])])
    assert (sample(**other, guidance=AdaptiveGuidance(3.0, 1.1)).x - one).abs().max() > 0.1


def test_linear_estimates_save_evaluations_and_beat_repeating():
    linear = LinearAG.fit(**settings("unet-v"), w=3.0)
    full = sample(**settings("unet-v"), guidance=CFG(3.0)).x
    got = sample(**settings("unet-v"), guidance=linear)
    replaced = sum(map(bool, linear.table))
    assert replaced >= 1 and got.nfe.tolist() == [2 * STEPS - replaced] * 4
    # the same steps with the last unconditional prediction repeated
    table = tuple(tuple([0.0] * (len(row) - 1) + [1.0]) if row else () for row in linear.table)
    repeated = sample(**settings("unet-v"), guidance=LinearAG(3.0, table, linear.made_for)).x
    assert (got.x - full).norm() < (repeated - full).norm()


@pytest.mark.parametrize("name", ["unet", "sd3"])
def test_without_replaced_steps_linear_is_cfg(name):
    linear = LinearAG(3.0, ((),) * STEPS, LinearAG.fit(**settings(name), w=3.0).made_for)
    assert torch.equal(sample(**settings(name), guidance=linear).x, sample(**settings(name), guidance=CFG(3.0)).x)


def test_linear_estimates_are_finite_at_pure_noise():
    # at t = 1 a flow has no data left in its state, and both predictions have the same noise
    linear = LinearAG.fit(**settings("sd3"), w=3.0, replaced=[0, 2])
    assert linear.table[0] and linear.table[2]
    got, full = (sample(**settings("sd3"), guidance=g) for g in (linear, CFG(3.0)))
    assert got.nfe.tolist() == [2 * STEPS - 2] * 4
    assert (got.x - full.x).norm() < (sample(**settings("sd3"), guidance=CFG(1.0)).x - full.x).norm()


@pytest.mark.parametrize("sampler", [Heun(), RhoRK()], ids=lambda s: type(s).__name__)
def test_a_table_of_steps_needs_a_sampler_that_asks_once_a_step(sampler):
    with pytest.raises(Refused, match="LinearAG.*needs one evaluation a step"):
        LinearAG.fit(**{**settings("unet"), "sampler": sampler}, w=3.0)
    linear = LinearAG.fit(**settings("unet"), w=3.0)
    with pytest.raises(Refused, match="LinearAG.*needs one evaluation a step"):
        sample(**{**settings("unet"), "sampler": sampler}, guidance=CFG(2.0) | linear.during(0.0, 0.5))


def test_linear_guidance_is_refused_on_discrete_data():
    words = KnownLaw(torch.tensor([[0, 1], [1, 0]]), Absorbing(3))
    cond = Cond({}, {"null": Cond()})
    with pytest.raises(Refused, match="LinearAG.*Absorbing is categorical"):
        LinearAG.fit(words, (2, 2), w=3.0, sampler=Ancestral(), steps=4, cond=cond)


@pytest.mark.parametrize("change", [{"steps": STEPS + 1}, {"sampler": DDIM(0.5)}, {"setting": Setting(model="other")}])
def test_fitted_tables_are_refused_elsewhere(change):
    linear = LinearAG.fit(**settings("unet"), w=3.0)
    with pytest.raises(Refused, match="was fitted for"):
        sample(**{**settings("unet"), **change}, guidance=linear)


def test_policies():
    scales = (3.0, 1.0, 0.0, 6.0, 1.5, 1.0, 1.0, 3.0)
    got = sample(**settings("unet"), guidance=ScheduledCFG(scales))
    assert got.nfe.tolist() == [2 + 1 + 1 + 2 + 2 + 1 + 1 + 2] * 4
    assert torch.equal(
        sample(**settings("unet"), guidance=ScheduledCFG((3.0,) * STEPS)).x,
        sample(**settings("unet"), guidance=CFG(3.0)).x,
    )
    with pytest.raises(BadInput, match="3 scales for 8 steps"):
        sample(**settings("unet"), guidance=ScheduledCFG((1.0,) * 3))


def test_the_search_follows_its_price():
    kw = {**settings("unet-v"), "w": 3.0, "steps": 3, "iterations": 6}
    cheap, faithful = search_policy(**kw, price=100.0), search_policy(**kw, price=0.0)
    two = [sum(s not in (0.0, 1.0) for s in policy.scales) for policy in (cheap, faithful)]
    assert two[0] == 0 and two[1] > 0
