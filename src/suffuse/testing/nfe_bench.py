"""Error of a run's end against network evaluations: samplers here and diffusers' schedulers on one network.

Both sides start from the same noise and ask the same guided denoiser. The error of a run is the root mean square
distance of its end to that of a fine run, in units of the root mean square of that end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol

import diffusers
import numpy as np
import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.engine import place_of, sample, trace
from ..core.grid import Spacing
from ..core.guidance import Guidance
from ..core.process import Gaussian
from ..core.recording import record
from ..core.sampler import Sampler
from ..core.value import Coef
from ..samplers import DDIM, OLSS, DPMSolverPP
from ..samplers.spacing import training_steps


@dataclass(frozen=True, eq=False)
class Course:
    """What every solver runs on.

    Args:
        denoiser, cond: network and conditions, one row for each picture.
        shape: of the states, (B, ...).
        guidance: with which it is asked.
        config: of diffusers' scheduler for this network.
        seed: of the start noise.
    """

    denoiser: Denoiser
    cond: Cond
    shape: tuple[int, ...]
    guidance: Guidance
    config: Mapping[str, Any]
    seed: int = 0

    def run(self, **settings: Any) -> tuple[Tensor, int]:
        """The end of a run of ours, and evaluations of the guided network."""
        out = sample(self.denoiser, self.shape, cond=self.cond, guidance=self.guidance, noise=self.seed, **settings)
        return out.x, int(out.nfe[0]) // self.branches

    @cached_property
    def start(self) -> Tensor:
        """The noise that all runs start from."""
        return next(iter(trace(self.denoiser, self.shape, sampler=DDIM(), cond=self.cond, noise=self.seed))).state.x

    @cached_property
    def branches(self) -> int:
        """Evaluations of the network in one of the guided network."""
        one = sample(self.denoiser, self.shape, cond=self.cond, guidance=self.guidance, sampler=DDIM(), steps=1)
        return int(one.nfe[0])

    @torch.no_grad()
    def output(self, x: Tensor, timestep: float) -> Tensor:
        """What the guided network returns at a timestep of diffusers'."""
        process = self.denoiser.process
        t = Coef((timestep + hasattr(process, "N")) / training_steps(process))
        return self._guided(x, t, self._prepared).value

    @cached_property
    def _guided(self) -> Any:
        return self.denoiser.guided(self.guidance)

    @cached_property
    def _prepared(self) -> Cond:
        return self.denoiser.prepare(self.cond)


def learned(course: Course, spacing: Spacing, steps: int) -> Callable[[int], Sampler]:
    """OLSS of any number of steps, from one fine run of these captions and this noise.

    Args:
        spacing, steps: of the fine run, by DPM-Solver++ 2M.
    """
    run = dict(sampler=DPMSolverPP(2), spacing=spacing, steps=steps, cond=course.cond, noise=course.seed)
    recorded = record(course.denoiser, course.shape, guidance=course.guidance, **run)
    process = course.denoiser.process
    assert isinstance(process, Gaussian)
    setting = place_of(course.denoiser, spacing.grid(process, steps), DPMSolverPP(2), course.guidance)
    return cache(lambda n: OLSS.of_record(recorded, process, n, setting))


class Arm(Protocol):
    """A solver with a spacing."""

    solver: str
    spacing: str

    def __call__(self, course: Course, budget: int) -> tuple[Tensor, int]:
        """End of a run of at most `budget` evaluations of the guided network, and how many it took."""


@dataclass(frozen=True, eq=False)
class Ours:
    """A sampler of suffuse.

    Args:
        solver, spacing: names.
        sampler: for a number of steps.
        placed: spacing; None is that of the sampler.
        steps: how many there are evaluations for.
    """

    solver: str
    spacing: str
    sampler: Callable[[int], Sampler]
    placed: Spacing | None = None
    steps: Callable[[int], int] = lambda budget: budget

    def __call__(self, course: Course, budget: int) -> tuple[Tensor, int]:
        n = self.steps(budget)
        return course.run(sampler=self.sampler(n), spacing=self.placed, steps=n)


@dataclass(frozen=True, eq=False)
class Theirs:
    """A scheduler of diffusers, by its class and what its configuration has beside the model's.

    States of schedulers that divide by alpha start as noise times sqrt(sigma^2 + 1), which is the same noise exactly.
    """

    solver: str
    spacing: str
    scheduler: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, course: Course, budget: int) -> tuple[Tensor, int]:
        scheduler, x = self._placed(course, budget), course.start
        if getattr(scheduler, "init_noise_sigma", 1.0) != 1.0:
            x = x * float(scheduler.sigmas[0] ** 2 + 1) ** 0.5
        # else it looks for its place by time, and takes the later one of two that are equal
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(course.output(scaled, float(t)), t, x, return_dict=False)[0]
        return x, len(scheduler.timesteps)

    def _placed(self, course: Course, budget: int) -> Any:
        """The scheduler with as many steps as the budget has evaluations for."""
        for n in range(budget, 0, -1):
            scheduler = getattr(diffusers, self.scheduler).from_config({**course.config, **self.settings})
            scheduler.set_timesteps(n)
            if len(scheduler.timesteps) <= budget:
                return scheduler
        raise ValueError(f"{self.scheduler} takes more than {budget} evaluations for one step")


@dataclass(frozen=True, eq=False)
class Point:
    """A solver at a budget.

    Attributes:
        errors: (B,) root mean square distance of each picture's end to the reference, over that of the reference to 0.
        evaluations: of the guided network that it took.
    """

    arm: Arm
    budget: int
    evaluations: int
    errors: np.ndarray

    @property
    def size(self) -> float:
        """What solvers are ranked by; infinite where a run diverged."""
        size = geometric(self.errors)
        return size if math.isfinite(size) else math.inf


def distances(end: Tensor, reference: Tensor) -> np.ndarray:
    """(B,) root mean square distance of states, in units of the root mean square of each reference."""
    away, whole = ((v.double().flatten(1).pow(2).mean(1).sqrt()) for v in (end - reference, reference))
    return (away / whole).numpy()


def geometric(errors: np.ndarray) -> float:
    """Geometric mean over pictures.

    A few pictures end in another mode than the reference, with most solvers and budgets. Their errors are a hundred
    times those of the others and carry every root mean square over pictures, which then says how many there are.
    """
    return float(np.exp(np.log(errors).mean()))


FEW, LOW, HIGH, MANY, KEPT = 8, 6, 12, 20, 3


def compete(measure: Callable[[Arm, int], Point], arms: Sequence[Arm], budgets: Sequence[int]) -> list[Point]:
    """The solvers of one side at every budget, in three rounds.

    Every solver tries all its spacings at LOW and at HIGH evaluations; the best at LOW is what it runs with at budgets
    up to FEW, the best at HIGH up to MANY. Above, the KEPT solvers that are best at MANY go on, each with the spacing
    that is its best there.
    """
    points: dict[tuple[Arm, int], Point] = {}

    def size(arm: Arm, budget: int) -> float:
        return point(arm, budget).size

    def point(arm: Arm, budget: int) -> Point:
        if (arm, budget) not in points:
            points[arm, budget] = measure(arm, budget)
        return points[arm, budget]

    def best(decisive: int, among: Sequence[str]) -> list[Arm]:
        return [min((a for a in arms if a.solver == name), key=lambda a: size(a, decisive)) for name in among]

    def chosen(budget: int) -> list[Arm]:
        everybody = list(dict.fromkeys(arm.solver for arm in arms))
        if budget <= MANY:
            return best(LOW if budget <= FEW else HIGH, everybody)
        leading = sorted(best(HIGH, everybody), key=lambda arm: size(arm, MANY))[:KEPT]
        return best(MANY, [arm.solver for arm in leading])

    return [point(arm, budget) for budget in budgets for arm in chosen(budget)]
