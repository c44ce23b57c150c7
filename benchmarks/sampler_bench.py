"""Cost of a sampler's update against the step of diffusers' scheduler of the same method.

    python benchmarks/sampler_bench.py [--pairs 40] [--steps 20] [--only DPM]

Both sides move one state of 1 x 4 x 32 x 32 over the same timesteps with the same precomputed network outputs. Ours is
`Sampler.step` with the reading of the network's output and the draw of the law; theirs `scale_model_input` and `step`.
The run's own loop and the network are in neither. Runs take turns in one process of one thread; times are the thread's
own processor time, and the ratio is the median over pairs with its bootstrap interval.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import diffusers
import numpy as np
import torch

from suffuse.core.grid import Grid
from suffuse.core.law import Law
from suffuse.core.noise import Stream
from suffuse.core.plugin import Setting
from suffuse.core.prediction import EPS, FLOW
from suffuse.core.process import Gaussian
from suffuse.core.step import RunContext, Sampler, Step
from suffuse.evaluation.statistics import median_ratio
from suffuse.processes import Flow, Table
from suffuse.samplers import (
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
    bound = sampler.bind(Setting(process=process))

    def run() -> None:
        x, memory = x0, bound.init(x0, plan[0])
        for at, value in zip(plan, values, strict=True):
            out, memory = bound.step(lambda z, t, v=value: process.predict(z, t, v, kind), x, at, memory)
            x = out.sample(at.noise) if isinstance(out, Law) else out

    return lambda: run


def theirs(scheduler: diffusers.SchedulerMixin, n: int, **step: object) -> Callable[[], Run]:
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


Case = tuple[Sampler, Gaussian, Grid, diffusers.SchedulerMixin, dict[str, object]]


def cases(n: int) -> dict[str, Case]:
    """Method -> (sampler, process, grid, scheduler, arguments of its step)."""
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


def seconds(prepare: Callable[[], Run]) -> float:
    run = prepare()
    start = time.thread_time()
    run()
    return time.thread_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="runs of each side")
    parser.add_argument("--steps", type=int, default=20, help="steps of a run")
    parser.add_argument("--only", default="", help="part of a method's name")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'method':16s} {'ours':>9s} {'theirs':>9s}   ratio     (microseconds a step)")
    for name, (sampler, process, grid, scheduler, step) in cases(given.steps).items():
        if given.only not in name:
            continue
        sides = ours(sampler, process, grid), theirs(scheduler, grid.n, **step)
        for prepare in sides:
            seconds(prepare)
        times = np.array([[seconds(prepare) for prepare in sides] for _ in range(given.pairs)]) / grid.n * 1e6
        mine, other = np.median(times, axis=0)
        print(f"{name:16s} {mine:9.1f} {other:9.1f}   {median_ratio(times[:, 0], times[:, 1])}")


if __name__ == "__main__":
    main()
