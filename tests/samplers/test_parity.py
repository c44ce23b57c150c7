"""Equal to diffusers' schedulers, on the same network and the same table."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.engine import sample
from suffuse.core.grid import Spacing
from suffuse.core.noise import Stream
from suffuse.core.prediction import EPS, FLOW, X0, Affine, Kind, V
from suffuse.core.process import Gaussian
from suffuse.core.sampler import Sampler
from suffuse.core.value import Coef
from suffuse.processes import Flow, Table
from suffuse.samplers import (
    DDIM,
    DDPM,
    DEIS,
    LCM,
    Beta,
    DPMSolverPP,
    Euler,
    EulerAncestral,
    Explicit,
    FlowDynamicShift,
    FlowShift,
    Heun,
    Karras,
    Leading,
    Linear,
    LogSNR,
    Skipping,
    Trailing,
    UniPC,
)

SHAPE = (2, 4, 8, 8)
KERNEL = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(3)) * 0.15


def net(x: Tensor, timestep: Tensor) -> Tensor:
    """What the network returns for states (B, 4, H, W) at timesteps (B,) or ()."""
    phase = (timestep.to(x) / 250).reshape(-1, 1, 1, 1)
    return torch.tanh(torch.nn.functional.conv2d(x, KERNEL.to(x), padding=1) + 0.5 * torch.sin(phase)) + 0.3 * x


class Toy(Denoiser):
    """`net` as a denoiser; `whole` rounds the timestep, as some of diffusers' schedulers do before they ask."""

    def __init__(self, process: Gaussian, kind: Kind = EPS, whole: bool = False):
        super().__init__()
        self.process, self.kind, self.whole = process, kind, whole

    def forward(self, x: Tensor, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Affine:
        t = Coef(t)
        timestep = self.process.timestep(t).tensor(len(x))
        value = net(x, timestep.round() if self.whole else timestep)
        return self.process.predict(x, t, value, self.kind)


def start(seed: int = 0) -> Tensor:
    """Start states."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
KINDS = {"epsilon": EPS, "v_prediction": V, "sample": X0, "flow_prediction": FLOW}
SCALED = {"EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"}
"""Schedulers whose state is x / alpha."""


def theirs(name: str, x: Tensor, settings: dict, step: dict, **timesteps) -> Tensor:
    """The end of diffusers' loop from the state x."""
    scheduler = getattr(diffusers, name).from_config(settings)
    scheduler.set_timesteps(**timesteps)
    x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5 if name in SCALED else x
    step = {**step, "generator": torch.Generator().manual_seed(5)} if step.get("generator") else step
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(scaled, t[None]), t, x, **step).prev_sample
    return x / (scheduler.sigmas[-1] ** 2 + 1) ** 0.5 if name in SCALED else x


def ours(sampler: Sampler, n: int, x: Tensor, spacing: Spacing, kind: str, process: Gaussian, whole=False) -> Tensor:
    noise = Stream(torch.Generator().manual_seed(5))
    return sample(Toy(process, KINDS[kind], whole), x, sampler=sampler, steps=n, spacing=spacing, noise=noise).x


def distance(a: Tensor, b: Tensor) -> float:
    assert torch.isfinite(a).all() and torch.isfinite(b).all()
    return float((a - b).norm() / b.norm())


DRAWS = dict(generator=True)
PLAIN = dict(clip_sample=False)
MIN = dict(final_sigmas_type="sigma_min")
DDIMS, DDPMS, EULER, ANCESTRAL, HEUN, DPM, UNI, DEISS = (
    f"{name}Scheduler"
    for name in ("DDIM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
                 "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep")
)  # fmt: skip

ONE_STEP = [
    # scheduler, its settings, of its step, our sampler, our spacing
    (DDIMS, dict(steps_offset=1, set_alpha_to_one=False, **PLAIN), {}, DDIM(), Leading(1, end=0.001)),
    (DDIMS, PLAIN, {}, DDIM(), Leading()),
    (DDIMS, dict(timestep_spacing="trailing", **PLAIN), {}, DDIM(), Trailing()),
    (DDIMS, dict(timestep_spacing="trailing", **PLAIN), dict(eta=0.7, **DRAWS), DDIM(0.7), Trailing()),
    (DDIMS, dict(timestep_spacing="trailing", **PLAIN), dict(eta=1.0, **DRAWS), DDPM(), Trailing()),
    (DDPMS, PLAIN, DRAWS, DDPM(), Leading()),
    (DDPMS, dict(timestep_spacing="linspace", **PLAIN), DRAWS, DDPM(), Linear()),
    (DDPMS, dict(timestep_spacing="trailing", **PLAIN), DRAWS, DDIM(1.0), Trailing()),
    (EULER, dict(timestep_spacing="leading", steps_offset=1), {}, Euler(), Leading(1)),
    (EULER, dict(timestep_spacing="leading", **MIN), {}, DDIM(), Leading(end=0.001)),
    (EULER, dict(timestep_spacing="trailing"), {}, Euler(), Trailing()),
    (EULER, dict(timestep_spacing="linspace"), {}, Euler(), Linear(whole=False)),
    (EULER, dict(use_karras_sigmas=True), {}, Euler(), Karras()),
    (EULER, dict(use_exponential_sigmas=True), {}, Euler(), LogSNR()),
    (EULER, dict(use_beta_sigmas=True), {}, Euler(), Beta()),
    (ANCESTRAL, dict(timestep_spacing="leading", steps_offset=1), DRAWS, EulerAncestral(), Leading(1)),
    (ANCESTRAL, dict(timestep_spacing="linspace"), DRAWS, EulerAncestral(), Linear(whole=False)),
    (HEUN, dict(timestep_spacing="leading"), {}, Heun(), Leading()),
    (HEUN, dict(timestep_spacing="trailing"), {}, Heun(), Trailing()),
    (HEUN, dict(use_karras_sigmas=True), {}, Heun(), Karras()),
    ("LCMScheduler", {}, DRAWS, LCM(), Skipping()),
    ("LCMScheduler", dict(original_inference_steps=100), DRAWS, LCM(), Skipping(100)),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("case", ONE_STEP, ids=lambda c: f"{c[0][:-9]}-{c[3]}-{c[4]}")
def test_one_step_methods(case, kind):
    name, settings, step, sampler, spacing = case
    x, n = start(), 4 if name == "LCMScheduler" else 10
    want = theirs(name, x, {**SD, **settings, "prediction_type": kind}, step, num_inference_steps=n)
    assert distance(ours(sampler, n, x, spacing, kind, Table()), want) < 1e-5


MULTISTEP = [
    (DPM, dict(solver_order=1), {}, DPMSolverPP(1)),
    (DPM, dict(solver_order=2), {}, DPMSolverPP()),
    (DPM, dict(euler_at_final=True), {}, DPMSolverPP(euler_at_final=True)),
    (DPM, dict(lower_order_final=False), {}, DPMSolverPP(lower_order_final=False)),
    (DPM, dict(solver_order=3), {}, DPMSolverPP(3)),
    (DPM, dict(solver_order=1, algorithm_type="sde-dpmsolver++"), DRAWS, DPMSolverPP(1, sde=True)),
    (DPM, dict(solver_order=2, algorithm_type="sde-dpmsolver++"), DRAWS, DPMSolverPP(sde=True)),
    (UNI, dict(solver_order=1), {}, UniPC(1)),
    (UNI, dict(solver_order=2), {}, UniPC()),
    (UNI, dict(solver_order=3), {}, UniPC(3)),
    (UNI, dict(solver_order=3, lower_order_final=False, **MIN), {}, UniPC(3, lower_order_final=False)),
    (UNI, dict(solver_order=3, disable_corrector=[0, 2]), {}, UniPC(3, disable_corrector=(0, 2))),
    # with an end at 0 diffusers' bh1 multiplies 0 by infinity
    (UNI, dict(solver_order=2, solver_type="bh1", **MIN), {}, UniPC(variant="bh1")),
    (UNI, dict(solver_order=3, solver_type="bh1", **MIN), {}, UniPC(3, variant="bh1")),
]
PLACED = [
    # of the scheduler, our spacing by its end, steps, kind of prediction; below 15 the last ones are of lower order
    (dict(timestep_spacing="linspace"), lambda end: Linear(skip_first=True, end=end), 20, "v_prediction"),
    (dict(timestep_spacing="leading", steps_offset=1), lambda end: Leading(1, skip_first=True, end=end), 8, "epsilon"),
    (dict(timestep_spacing="trailing"), lambda end: Trailing(end=end), 9, "sample"),
    (dict(use_karras_sigmas=True), lambda end: Karras(end=end), 8, "epsilon"),
]


@pytest.mark.parametrize("placed", PLACED, ids=lambda p: str(p[1](0.0)))
@pytest.mark.parametrize("case", MULTISTEP, ids=lambda c: str(c[3]))
def test_multistep_methods(case, placed):
    name, settings, step, sampler = case
    spaced, spacing, n, kind = placed
    karras, end = "use_karras_sigmas" in spaced, 0.001 if "final_sigmas_type" in settings else 0.0
    if karras and end:
        pytest.skip("the last step has no length, and there diffusers' UniPC divides by zero")
    want = theirs(name, start(), {**SD, **settings, **spaced, "prediction_type": kind}, step, num_inference_steps=n)
    # with Karras these schedulers tell the network a rounded timestep
    assert distance(ours(sampler, n, start(), spacing(end), kind, Table(), whole=karras), want) < 1e-5


@pytest.mark.parametrize("order", [0, 1, 2])
def test_deis_in_log_rho(order):
    for spaced, spacing, n, _ in PLACED:
        settings = dict(solver_order=order + 1, lower_order_final=False, **SD, **spaced)
        want = theirs(DEISS, start(), settings, {}, num_inference_steps=n)
        sampler, karras = DEIS(order, "logrhoAB"), "use_karras_sigmas" in spaced
        assert distance(ours(sampler, n, start(), spacing(0.001), "epsilon", Table(), whole=karras), want) < 1e-5


def test_flow_euler():
    for shift in (1.0, 3.0):
        want = theirs("FlowMatchEulerDiscreteScheduler", start(), dict(shift=shift), {}, num_inference_steps=9)
        for sampler in (Euler(), DDIM()):
            assert distance(ours(sampler, 9, start(), FlowShift(shift), "flow_prediction", Flow()), want) < 1e-5


def test_flow_euler_of_flux():
    tokens = 16  # states are 8 x 8, tokens 2 x 2
    mu = 0.5 + (1.15 - 0.5) / (4096 - 256) * (tokens - 256)
    settings, sigmas = dict(use_dynamic_shifting=True, shift=3.0), torch.linspace(1, 1 / 9, 9).tolist()
    want = theirs("FlowMatchEulerDiscreteScheduler", start(), settings, {}, sigmas=sigmas, mu=mu)
    assert distance(ours(Euler(), 9, start(), FlowDynamicShift(), "flow_prediction", Flow()), want) < 1e-5


@pytest.mark.parametrize(
    "name, settings, sampler",
    [(UNI, dict(solver_order=3), UniPC(3)), (UNI, dict(solver_order=2), UniPC()),
     (DPM, dict(solver_order=2), DPMSolverPP()), (DPM, dict(solver_order=3), DPMSolverPP(3))],
)  # fmt: skip
def test_flow_multistep(name, settings, sampler):
    config = dict(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction", **settings)
    scheduler = getattr(diffusers, name).from_config(config)
    scheduler.set_timesteps(10)
    times = Explicit(tuple(scheduler.sigmas[:-1].double().tolist()))
    want = theirs(name, start(), config, {}, num_inference_steps=10)
    # timesteps are cut to whole numbers there
    process = type("Cut", (Flow,), {"timestep": lambda self, t: type(t)(float(int(1000.0 * t.item() + 1e-3)))})()
    assert distance(ours(sampler, 10, start(), times, "flow_prediction", process), want) < 1e-5


def clamped(table: Table) -> Table:
    """The table with the last alphas_cumprod that diffusers' Euler and DPM-Solver put where zero would be."""
    table.alphas_cumprod[-1] = 2**-24
    return table


@pytest.mark.parametrize(
    "name, step, sampler, process",
    [(DDIMS, {}, DDIM(), Table(zero_snr=True)), (DDPMS, DRAWS, DDPM(), Table(zero_snr=True)),
     (EULER, {}, Euler(), clamped(Table(zero_snr=True))), (DPM, {}, DPMSolverPP(), clamped(Table(zero_snr=True))),
     (UNI, {}, UniPC(), clamped(Table(zero_snr=True)))],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_zero_terminal_snr(name, step, sampler, process):
    plain = PLAIN if name in (DDIMS, DDPMS) else {}
    settings = dict(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction", **SD, **plain
    )
    want = theirs(name, start(), settings, step, num_inference_steps=10)
    assert distance(ours(sampler, 10, start(), Trailing(), "v_prediction", process), want) < 1e-5


def test_karras_of_sdxl_takes_its_range_from_the_timesteps():
    settings = dict(timestep_spacing="leading", steps_offset=1, use_karras_sigmas=True)
    want = theirs(EULER, start(), {**SD, **settings}, {}, num_inference_steps=10)
    table = Table()
    low, high = (math.exp(table._list[k]) for k in (1, 901))
    got = ours(Euler(), 10, start(), Karras(sigma_min=low, sigma_max=high), "epsilon", table)
    assert distance(got, want) < 1e-5


@pytest.mark.parametrize("name, sampler", [(UNI, UniPC()), (DPM, DPMSolverPP())], ids=["UniPC", "DPMSolverPP"])
def test_flows_use_what_was_predicted_at_pure_noise(name, sampler):
    # diffusers begins at 0.999, where log-SNR is finite
    config = dict(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction", solver_order=2)
    want = theirs(name, start(), config, {}, num_inference_steps=5)
    got = ours(sampler, 5, start(), FlowShift(3.0, skip_first=True), "flow_prediction", Flow())
    assert distance(got, want) < 1e-3
