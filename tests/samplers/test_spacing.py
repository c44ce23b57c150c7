"""Spacings place the timesteps of diffusers' schedulers, to the last bit."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suffuse.core.errors import BadInput
from suffuse.core.expression import parse, unparse
from suffuse.core.grid import Spacing
from suffuse.core.value import Coef
from suffuse.processes import VE, VP, Cosine, Flow, Table
from suffuse.samplers import (
    LCM,
    AlignYourSteps,
    Explicit,
    FlowDynamicShift,
    FlowShift,
    Karras,
    Leading,
    Linear,
    LogSNR,
    Quadratic,
    Skipping,
    Trailing,
)

SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
TABLE = Table()
STEPS = (1, 2, 3, 4, 7, 10, 13, 20, 25, 30, 50, 100, 999, 1000)


def timesteps(spacing: Spacing, n: int) -> np.ndarray:
    grid = spacing.grid(TABLE, n)
    assert grid.n == n
    return np.array([TABLE.timestep(grid.node(i)).item() for i in range(n)])


def sigmas(spacing: Spacing, n: int) -> np.ndarray:
    grid = spacing.grid(TABLE, n)
    return np.array([TABLE.rho(grid.node(i)).item() for i in range(n + 1)])


def scheduler(name: str, n: int, **settings):
    made = getattr(diffusers, f"{name}Scheduler")(**SD, **settings)
    made.set_timesteps(n)
    return made


@pytest.mark.parametrize("n", STEPS)
def test_timesteps_of_one_step_schedulers(n):
    for name in ("DDIM", "DDPM"):
        assert (timesteps(Trailing(), n) == scheduler(name, n, timestep_spacing="trailing").timesteps.numpy()).all()
        assert (timesteps(Linear(), n) == scheduler(name, n, timestep_spacing="linspace").timesteps.numpy()).all()
        assert (timesteps(Leading(), n) == scheduler(name, n, timestep_spacing="leading").timesteps.numpy()).all()
        if n < 1000:
            settings = dict(timestep_spacing="leading", steps_offset=1)
            assert (timesteps(Leading(1), n) == scheduler(name, n, **settings).timesteps.numpy()).all()


@pytest.mark.parametrize("n", [n for n in STEPS if n < 500])
@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"])
def test_timesteps_of_multistep_schedulers(name, n):
    assert (timesteps(Trailing(), n) == scheduler(name, n, timestep_spacing="trailing").timesteps.numpy()).all()
    even = scheduler(name, n, timestep_spacing="linspace")
    assert (timesteps(Linear(skip_first=True), n) == even.timesteps.numpy()).all()
    settings = dict(timestep_spacing="leading", steps_offset=1)
    assert (timesteps(Leading(1, skip_first=True), n) == scheduler(name, n, **settings).timesteps.numpy()).all()


@pytest.mark.parametrize("n", [n for n in STEPS if 1 < n < 500])
def test_noise_levels(n):
    linear = scheduler("EulerDiscrete", n, timestep_spacing="linspace")
    # the network is told a timestep that fits the noise; diffusers interpolates both by themselves
    np.testing.assert_allclose(timesteps(Linear(whole=False), n), linear.timesteps.numpy(), atol=0.02)
    np.testing.assert_allclose(sigmas(Linear(whole=False), n), linear.sigmas.numpy(), rtol=2e-6)
    karras = scheduler("EulerDiscrete", n, use_karras_sigmas=True)
    np.testing.assert_allclose(sigmas(Karras(), n), karras.sigmas.numpy(), rtol=2e-6)
    np.testing.assert_allclose(timesteps(Karras(), n), karras.timesteps.numpy(), atol=2e-3)
    even = scheduler("EulerDiscrete", n, use_exponential_sigmas=True)
    np.testing.assert_allclose(sigmas(LogSNR(), n), even.sigmas.numpy(), rtol=2e-6)
    lu = scheduler("DPMSolverMultistep", n, use_lu_lambdas=True, final_sigmas_type="sigma_min")
    np.testing.assert_allclose(sigmas(LogSNR(end=0.001), n), lu.sigmas.numpy(), rtol=2e-6)
    first = scheduler("EulerDiscrete", n, timestep_spacing="leading", final_sigmas_type="sigma_min")
    np.testing.assert_allclose(sigmas(Leading(end=0.001), n), first.sigmas.numpy(), rtol=2e-6)


@pytest.mark.parametrize("n", [1, 2, 4, 6, 8, 50])
def test_timesteps_of_consistency_models(n):
    made = diffusers.LCMScheduler()
    made.set_timesteps(n)
    assert (timesteps(Skipping(), n) == made.timesteps.numpy()).all() and LCM().spacing == Skipping()
    with pytest.raises(BadInput, match="distilled on 50"):
        Skipping().grid(TABLE, 51)


@pytest.mark.parametrize("n", [1, 4, 28, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
def test_noise_levels_of_flows(n, shift):
    made = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    made.set_timesteps(n)
    np.testing.assert_allclose(FlowShift(shift).grid(Flow(), n).times.numpy(), made.sigmas.numpy(), rtol=2e-7)
    made = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = 0.5 + 0.65 * (24 * 40 - 256) / 3840  # 960 tokens, as the pipeline of Flux computes it
    made.set_timesteps(sigmas=np.linspace(1.0, 1 / n, n), mu=mu)
    ours = FlowDynamicShift().grid(Flow(), n, (16, 48, 80)).times.numpy()
    np.testing.assert_allclose(ours, made.sigmas.numpy(), rtol=2e-7)


def test_explicit():
    assert Explicit(timesteps=(999, 500, 0)).grid(TABLE, 25).times.tolist() == [1.0, 0.501, 0.001, 0.0]
    assert Explicit(times=(0.9, 0.5), end=0.1).grid(Flow(), 25).times.tolist() == [0.9, 0.5, 0.1]
    for wrong in (dict(), dict(times=(1.0,), timesteps=(3,))):
        with pytest.raises(BadInput, match="give one of the two"):
            Explicit(**wrong)


def test_quadratic():
    roots = Quadratic(t_min=0.01).grid(VP(), 5).times.sqrt()
    torch.testing.assert_close(roots[:5].diff(), torch.full((4,), -0.9 / 4, dtype=torch.float64))
    assert roots[4] == pytest.approx(0.1) and roots[5] == 0


@pytest.mark.parametrize("process", [Flow(), Cosine(), Table(zero_snr=True)])
@pytest.mark.parametrize("spacing", [Karras, LogSNR])
def test_pure_noise_needs_a_largest_sigma(process, spacing):
    if process != Cosine():  # whose cosine is not quite 0 in floating point
        with pytest.raises(BadInput, match="sigma_max"):
            spacing().grid(process, 5)
    grid = spacing(sigma_max=80.0).grid(process, 5)
    assert process.rho(grid.node(0)).item() == pytest.approx(80.0)


def test_too_many_steps():
    for spacing in (Trailing(), Linear(), Leading()):
        with pytest.raises(BadInput, match="steps=1001"):
            spacing.grid(TABLE, 1001)
    with pytest.raises(BadInput, match="tokens of images"):
        FlowDynamicShift().grid(Flow(), 4)


SPACINGS = st.sampled_from([Trailing(), Leading(), Leading(1, end=0.001), Linear(), Linear(whole=False),
                            AlignYourSteps("SDXL"), Karras(),
                            LogSNR(), Quadratic(), FlowShift(3.0), Linear(skip_first=True)])  # fmt: skip


@given(SPACINGS, st.integers(2, 60), st.sampled_from([Table(), VP(), Table("linear", 0.0001, 0.02)]))
def test_grids_fall_from_noise_to_the_end(spacing, n, process):
    times = spacing.grid(process, n).times
    assert len(times) == n + 1 and times[0] <= 1 and times[-1] == spacing.end
    assert bool((times[:-1].diff() < 0).all()) and times[-1] <= times[-2]
    assert isinstance(process.rho(Coef(times[0])).item(), float)


def test_spacings_are_expressions():
    for spacing in (Karras(rho=5.0), Leading(1, end=0.001), Explicit(timesteps=(999, 0))):
        assert parse(unparse(spacing)) == spacing


@pytest.mark.parametrize(("model", "table"), [("SD1.5", "StableDiffusion"), ("SDXL", "StableDiffusionXL")])
def test_aligned_schedules_are_the_published_ones(model, table):
    found, spacing = diffusers.schedulers.AysSchedules, AlignYourSteps(model)
    np.testing.assert_allclose(sigmas(spacing, 10), found[f"{table}Sigmas"], rtol=1e-4)
    # the published timesteps are those sigmas on the model's own table
    assert np.abs(timesteps(spacing, 10) - np.array(found[f"{table}Timesteps"])).max() <= 1.0


def test_aligned_schedules_of_other_lengths():
    """Halfway between two published sigmas stands their geometric mean; n = 5 is every second of 10."""
    ten, five, twenty = (sigmas(AlignYourSteps("SDXL"), n) for n in (10, 5, 20))
    np.testing.assert_allclose(five, ten[::2], rtol=1e-9)
    np.testing.assert_allclose(twenty[1:18:2], np.sqrt(ten[:9] * ten[1:10]), rtol=1e-4)
    process = VE(sigma_max=700.0)
    video = AlignYourSteps("SVD").grid(process, 10)
    rhos = [process.rho(video.node(i)).item() for i in range(10)]
    np.testing.assert_allclose(rhos, diffusers.schedulers.AysSchedules["StableDiffusionVideoSigmas"][:10], rtol=1e-6)
    with pytest.raises(BadInput, match="SDXL"):
        AlignYourSteps("SDLX")


def test_a_shifted_flow_may_leave_out_the_time_beside_the_data():
    times = FlowShift(3.0, skip_first=True).grid(Flow(), 4).times
    torch.testing.assert_close(times, torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]).double())
    torch.testing.assert_close(FlowShift(1.0, skip_first=True).grid(Flow(), 5).times, Trailing().grid(Flow(), 5).times)
