"""Sampler: how a state moves from one time to the next.

step(predict, x, at, memory) -> (next x or its Law, memory)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch

from .grid import Spacing
from .law import Law
from .memory import take
from .plugin import Needs, Plugin
from .process import Gaussian
from .step import Step
from .value import Coef, Value

Ask: TypeAlias = Callable[[Value, Coef], Any]
"""predict(z, t): what a sampler asks, with its centred state z; everything else is settled behind it."""


class Sampler(Plugin):
    """Moves a state from one time to the next. Frozen dataclass; its run state is the memory it is handed."""

    spacing: Spacing | None = None
    """Its own rule for placing steps, or None for the model's."""

    convergence: int | None = None
    """Power of the step length with which the error of a whole run falls, first steps included; None for SDEs."""

    def init(self, x: Value, at: Step) -> Any:
        """Memory at the start: a batch-first pytree whose structure stays. Default: none, ()."""
        return ()

    @abstractmethod
    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        """From x at at.t to the state at at.s, or its law, which the engine draws."""

    def turn(self, x: Value, at: Step, memory: Any) -> tuple[Value, Step, Any]:
        """Ready to run back from here. Default: the memory of a multistep method is dropped."""
        return x, at.back(), self.init(x, at.back())

    @cached_property
    def many(self) -> bool:
        """True when a step asks for several predictions."""
        return Needs.ONE_EVALUATION not in self.needs


@dataclass(frozen=True, eq=False)
class Mover:
    """The sampler's own step, fed with a given prediction; see `Step.move`."""

    sampler: Sampler
    x: Value
    samples: tuple[int, ...]
    memory: Any

    def __call__(self, p: Any, at: Step) -> Any:
        x, memory = self.x, self.memory
        if at.samples != self.samples:
            rows = torch.tensor([self.samples.index(s) for s in at.samples])
            x, memory = take(x, rows), take(memory, rows)
        return self.sampler.step(lambda *_: p, x, at, memory)[0]


@dataclass(frozen=True)
class Centred(Gaussian):
    """A Gaussian process without its offset: what a sampler sees, so that no solver ever meets one."""

    inner: Gaussian

    def alpha(self, t: Coef) -> Coef:
        return self.inner.alpha(t)

    def sigma(self, t: Coef) -> Coef:
        return self.inner.sigma(t)

    def time(self, rho: Coef) -> Coef:
        return self.inner.time(rho)

    def reverse_std(self, t: Coef, s: Coef) -> Coef:
        return self.inner.reverse_std(t, s)

    def slope(self, t: Coef) -> tuple[Coef, Coef]:
        return self.inner.slope(t)
