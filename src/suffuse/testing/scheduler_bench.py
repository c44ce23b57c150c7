"""Cost of a sampler's update against the step of diffusers' scheduler of the same method.

Both sides move one state of 1 x 4 x 32 x 32 over the same timesteps with the same precomputed network outputs. Ours is
`Sampler.step` with the reading of the network's output and the draw of the law; theirs `scale_model_input` and `step`.
The run's own loop and the network are in neither. Runs take turns in one process; times are the thread's own processor
time, so it must be one thread, and the ratio is the median over pairs with its bootstrap interval.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from ..core.grid import Grid
from ..core.law import Law
from ..core.metric import Estimate
from ..core.noise import Stream
from ..core.plugin import Setting
from ..core.prediction import EPS, FLOW, Prediction
from ..core.process import Gaussian
from ..core.sampler import Sampler
from ..core.step import RunContext, Step
from ..core.value import Coef
from ..evaluation.statistics import median_ratio
from ..processes import Flow, Table
from ..samplers import (
    DDIM,
    DDPM,
    DEIS,
    LCM,
    DPMSolverPP,
    Euler,
    EulerAncestral,
    FlowShift,
    Heun,
    Skipping,
    Trailing,
    UniPC,
)

SHAPE = (1, 4, 32, 32)
SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
TRAILING = dict(timestep_spacing="trailing", **SD)

Run = Callable[[], None]


def ours(sampler: Sampler, process: Gaussian, grid: Grid) -> Callable[[], Run]:
    """Prepares runs of the sampler alone."""
    x0, values = torch.randn(SHAPE), torch.randn(grid.n, *SHAPE)
    context = RunContext(Stream(torch.Generator().manual_seed(0)))
    plan = [Step(i, grid.n, t, s, grid, process, (0,), context) for i, t, s in grid.steps()]
    kind = FLOW if isinstance(process, Flow) else EPS
    times = tuple(grid.times.tolist())
    bound = sampler.bind(Setting(process=str(process), sampler=str(sampler), times=times))

    def run() -> None:
        x, memory = x0, bound.init(x0, plan[0])
        for at, value in zip(plan, values, strict=True):

            def ask(z: Tensor, t: Coef, value: Tensor = value) -> Prediction:
                return process.predict(z, t, value, kind)

            out, memory = bound.step(ask, x, at, memory)
            x = out.sample(at.noise) if isinstance(out, Law) else out

    return lambda: run


def theirs(scheduler: Any, n: int, **step: Any) -> Callable[[], Run]:
    """Prepares runs of the scheduler alone, each with fresh state."""
    scheduler.set_timesteps(n)
    x0, values = torch.randn(SHAPE), torch.randn(len(scheduler.timesteps), *SHAPE)

    def prepare() -> Run:
        own = copy.deepcopy(scheduler)

        def run() -> None:
            x = x0
            for t, value in zip(own.timesteps, values, strict=True):
                if hasattr(own, "scale_model_input"):
                    own.scale_model_input(x, t)
                x = own.step(value, t, x, return_dict=False, **step)[0]

        return run

    return prepare


Case = tuple[Sampler, Gaussian, Grid, Any, dict[str, Any]]


def cases(n: int) -> dict[str, Case]:
    """Method -> (sampler, process, grid, scheduler, arguments of its step), for runs of n steps."""
    table, flow = Table(), Flow()
    even, few = Trailing().grid(table, n), Skipping().grid(table, min(n, 8))
    plain, draws = dict(clip_sample=False, **TRAILING), dict(generator=torch.Generator().manual_seed(0))
    dpm, uni, deis = (getattr(diffusers, f"{name}MultistepScheduler") for name in ("DPMSolver", "UniPC", "DEIS"))
    ancestral, sde = diffusers.EulerAncestralDiscreteScheduler, dict(algorithm_type="sde-dpmsolver++", **TRAILING)
    flow_euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return {
        "DDIM": (DDIM(), table, even, diffusers.DDIMScheduler(**plain), {}),
        "DDPM": (DDPM(), table, even, diffusers.DDPMScheduler(**plain), draws),
        "Euler": (Euler(), table, even, diffusers.EulerDiscreteScheduler(**TRAILING), {}),
        "EulerAncestral": (EulerAncestral(), table, even, ancestral(**TRAILING), draws),
        "Heun": (Heun(), table, even, diffusers.HeunDiscreteScheduler(**TRAILING), {}),
        "DPM++ 2M": (DPMSolverPP(2), table, even, dpm(**TRAILING), {}),
        "DPM++ 3M": (DPMSolverPP(3), table, even, dpm(solver_order=3, **TRAILING), {}),
        "DPM++ 2M SDE": (DPMSolverPP(2, sde=True), table, even, dpm(**sde), draws),
        "UniPC 2": (UniPC(2), table, even, uni(**TRAILING), {}),
        "UniPC 3": (UniPC(3), table, even, uni(solver_order=3, **TRAILING), {}),
        "LCM": (LCM(), table, few, diffusers.LCMScheduler(), draws),
        "DEIS": (DEIS(2, "logrhoAB"), table, Trailing(end=0.001).grid(table, n), deis(solver_order=3, **TRAILING), {}),
        "flow Euler": (Euler(), flow, FlowShift().grid(flow, n), flow_euler, {}),
    }  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What a step of one method costs.

    Args:
        method: its name in `cases`.
        ours, theirs: median microseconds a step.
        ratio: median of ours / theirs over pairs of runs; below 1 suffuse is faster.
    """

    method: str
    ours: float
    theirs: float
    ratio: Estimate


def measure(case: Case, name: str, pairs: int) -> Cost:
    """Run both sides in turns, `pairs` times each after a first run that does not count."""
    sampler, process, grid, scheduler, step = case
    sides = ours(sampler, process, grid), theirs(scheduler, grid.n, **step)
    for prepare in sides:
        _seconds(prepare)
    times = np.array([[_seconds(prepare) for prepare in sides] for _ in range(pairs)]) / grid.n * 1e6
    mine, other = np.median(times, axis=0)
    return Cost(name, float(mine), float(other), median_ratio(times[:, 0], times[:, 1]))


def _seconds(prepare: Callable[[], Run]) -> float:
    run = prepare()
    start = time.thread_time()
    run()
    return time.thread_time() - start
