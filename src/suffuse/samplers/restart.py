"""Restart: back to more noise and down again, in a part of the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.errors import BadInput
from ..core.law import Law
from ..core.plugin import Needs, Setting
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Coef, Value, combine, minimum, sqrt, where
from .runge_kutta import Heun

RHO = 7.0


@method(paper="restart-sampling")
@dataclass(frozen=True)
class Restart(Sampler):
    """When the run comes to t_min, K times:  y + sqrt(t_max^2 - t_min^2) z,  then the ODE from t_max back to t_min.

    Here y = x / alpha, z is new standard normal noise and t stands for rho = sigma / alpha. Noise contracts the errors
    that were made before, and the ODE between makes few new ones. The way back has N_Restart times,
    (t_max^(1/7) + i / (N_Restart - 1) (t_min^(1/7) - t_max^(1/7)))^7, and N_Restart - 1 steps.

    Args:
        sampler: that makes all steps.
        intervals: (N_Restart, K, t_min, t_max) of each, t_min and t_max in units of sigma / alpha; t_min is moved to
            the nearest time of the grid. The default is the paper's for Stable Diffusion at guidance 5 and 8; for
            CIFAR-10 it is ((3, 10, 0.06, 0.3),).
        noise: S_noise, standard deviation of z.

    Raises:
        BadInput: numbers out of range.

    Example:
        >>> model.generate("a red circle", sampler=Restart(Heun(), ((10, 2, 0.1, 2.0),)), steps=20)

    Reference: Xu et al., Restart Sampling for Improving Generative Processes, 2306.14878.

    Differs from the paper: any sampler and any Gaussian process; t_max above the noise of the process is its own.
    """

    sampler: Sampler = Heun()
    intervals: tuple[tuple[int, int, float, float], ...] = ((10, 2, 0.1, 2.0),)
    noise: float = 1.0

    needs = Needs.GAUSSIAN

    def __post_init__(self) -> None:
        for number, rounds, low, high in self.intervals:
            if number < 2 or rounds < 0 or not 0.0 < low < high:
                raise BadInput(
                    f"Restart(intervals=(({number}, {rounds}, {low}, {high}), ...)): give N_Restart of 2 or more, K of "
                    "0 or more, and 0 < t_min < t_max"
                )

    def bind(self, setting: Setting) -> Restart:
        return replace(self, sampler=self.sampler.bind(setting))

    def init(self, x: Value, at: Step) -> Any:
        return self.sampler.init(x, at)

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value, Any]:
        x, memory = self._stepped(predict, x, at, memory)
        for k, (number, rounds, low, high) in enumerate(self.intervals):
            if at.i + 1 != nearest_node(at, low):
                continue
            for turn in range(rounds):
                again = at.fold(f"restart/{k}/{turn}")
                x, top = self._noised(x, again, high)
                memory = self.sampler.init(x, again)
                for j, (t, s) in enumerate(_between(at, top, number)):
                    x, memory = self._stepped(predict, x, again.fold(j).but(t=t, s=s), memory)
        return x, memory

    def _stepped(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value, Any]:
        out, memory = self.sampler.step(predict, x, at, memory)
        return (out.sample(at.noise) if isinstance(out, Law) else out), memory

    def _noised(self, x: Value, at: Step, high: float) -> tuple[Value, Coef]:
        """The state at at.s with noise up to t_max, and its rho."""
        process, low = at.process, at.process.rho(at.s)
        top = minimum(high, process.rho(Coef(1.0)))
        top = where(low > top, low, top)
        alpha = process.alpha(process.time(top))
        kept, added = alpha / process.alpha(at.s), self.noise * alpha * sqrt(top * top - low * low)
        return combine((kept, x), (added, at.noise(x))), top


def nearest_node(at: Step, low: float) -> int:
    """Index of the grid time, between its ends, whose rho is nearest to t_min; n where there is none between."""
    rhos = np.array([at.process.rho(at.grid.node(i)).tensor(1).mean().item() for i in range(1, at.n)])
    return 1 + int(np.abs(rhos - low).argmin()) if len(rhos) else at.n


def _between(at: Step, top: Coef, number: int) -> Iterator[tuple[Coef, Coef]]:
    """(t, s) of the steps from rho = top down to at.s, the last of which ends there exactly."""
    process, start, end = at.process, top ** (1 / RHO), at.process.rho(at.s) ** (1 / RHO)
    times = [process.time((start + i / (number - 1) * (end - start)) ** RHO) for i in range(number - 1)]
    times.append(at.s)
    yield from zip(times[:-1], times[1:], strict=True)
