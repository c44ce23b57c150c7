"""Scheduler configurations: the noise table and the timesteps that the scheduler of diffusers makes of them."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.core.errors import BadInput
from suffuse.core.value import Coef
from suffuse.loading.schedules import FLOWS, TABLES, read_schedule
from suffuse.processes.continuous import Flow
from suffuse.processes.tables import Table

SPACED = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "UniPCMultistepScheduler",
)


def config(name: str, **changes: Any) -> dict[str, Any]:
    return {**dict(getattr(diffusers, name)(**changes).config), "_class_name": name}


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_table(schedule: str, zero_snr: bool) -> None:
    c = config("DDIMScheduler", beta_schedule=schedule, rescale_betas_zero_snr=zero_snr)
    process = read_schedule(c).process
    assert isinstance(process, Table)
    ours, theirs = process.alphas_cumprod, diffusers.DDIMScheduler.from_config(c).alphas_cumprod
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    for k in (0, 1, 500, 998):
        assert process.alpha(Coef((k + 1) / 1000)).item() == pytest.approx(theirs[k].item() ** 0.5, rel=1e-5)


def test_trained_betas() -> None:
    betas = [0.01, 0.02, 0.05, 0.1]
    process = read_schedule(config("DDPMScheduler", trained_betas=betas, num_train_timesteps=4)).process
    assert isinstance(process, Table)
    assert process.alphas_cumprod.tolist() == pytest.approx(np.cumprod(1 - np.array(betas)).tolist())


@pytest.mark.parametrize(("said", "kind"), [("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")])
def test_kind(said: str, kind: str) -> None:
    assert read_schedule(config("DDIMScheduler", prediction_type=said)).kind.name == kind


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(SPACED), st.sampled_from(["leading", "trailing", "linspace"]), st.integers(2, 60), st.integers(0, 1)
)
def test_timesteps(name: str, rule: str, n: int, offset: int) -> None:
    c = config(name, timestep_spacing=rule, steps_offset=offset)
    theirs = getattr(diffusers, name).from_config(c)
    theirs.set_timesteps(n)
    schedule = read_schedule(c)
    grid = schedule.spacing.grid(schedule.process, n)
    ours = [schedule.process.timestep(Coef(t)).item() for t in grid.times[:-1].tolist()]
    # Between two timesteps ours are those of equal noise; theirs are told to the network as they are.
    assert np.abs(np.array(ours) - theirs.timesteps.numpy()).max() < (0.5 if rule == "linspace" else 1e-6)
    assert grid.n == n and grid.times[-1] == 0.0


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler"])
def test_stopping_at_the_first_timestep(name: str) -> None:
    schedule = read_schedule(config(name, set_alpha_to_one=False, steps_offset=1))
    assert schedule.spacing.grid(schedule.process, 10).times[-1].item() == 1 / 1000


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow(shift: float) -> None:
    c = config("FlowMatchEulerDiscreteScheduler", shift=shift)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_config(c)
    theirs.set_timesteps(7)
    schedule = read_schedule(c)
    assert isinstance(schedule.process, Flow) and schedule.kind.name == "flow"
    assert torch.allclose(schedule.spacing.grid(schedule.process, 7).times.float(), theirs.sigmas, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_of_a_pipeline_that_places_steps_evenly(shift: float) -> None:
    c = config("FlowMatchEulerDiscreteScheduler", shift=shift)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_config(c)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / 7, 7))
    schedule = read_schedule(c, even=True)
    assert torch.allclose(schedule.spacing.grid(schedule.process, 7, (4, 8, 8)).times.float(), theirs.sigmas, atol=1e-6)


# By a scheduler of diffusers, in a frame of numpy's that tells nothing of it.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning:numpy")
def test_what_is_left_out_is_the_default_of_the_class() -> None:
    for name in (*TABLES, *FLOWS):
        assert repr(read_schedule({"_class_name": name})) == repr(read_schedule(config(name)))


@pytest.mark.parametrize(
    ("c", "named"),
    [
        ({"_class_name": "DDIMSheduler"}, "DDIMScheduler"),
        ({}, "None"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "epsilom"}, "epsilon"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "leadin"}, "leading"),
        ({"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}, "use_beta_sigmas"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "use_dynamic_shifting"),
    ],
)
def test_unknown(c: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        read_schedule(c)
