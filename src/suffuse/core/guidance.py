"""Guidance: one prediction made out of several evaluations.

(predict, x, t, cond, at) -> Prediction          A | B: A is outermost and sees B as its `predict`
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .cond import Cond
from .plugin import Plugin, Windowed
from .step import Step
from .value import Coef, Value

if TYPE_CHECKING:
    from .predict import Predict


class Guidance(Plugin):
    """Makes one prediction out of several evaluations."""

    evaluations: ClassVar[int | None] = None
    """Most evaluations of the network that it asks of one sample for one prediction; None where that depends."""

    @abstractmethod
    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        """The prediction at state x and time t (a stage between at.t and at.s for samplers of several evaluations)."""

    def __or__(self, other: Guidance) -> Guidance:
        return Chain((*self.links, *other.links))

    @property
    def links(self) -> tuple[Guidance, ...]:
        """The guidances of a chain, the first outermost; by itself, only this one."""
        return (self,)

    def during(self, start: float, stop: float) -> Guidance:
        """This guidance for start <= progress < stop; outside, the plain conditional prediction."""
        return Window(self, start, stop)


@dataclass(frozen=True)
class Chain(Guidance):
    """Guidances one inside the other, the first outermost."""

    parts: tuple[Guidance, ...]

    @property
    def links(self) -> tuple[Guidance, ...]:
        return self.parts

    @property
    def bare(self) -> tuple[Plugin, ...]:
        return tuple(inner for g in self.parts for inner in g.bare)

    def prompts(self) -> Mapping[str, Any]:
        return {k: v for g in self.parts for k, v in g.prompts().items()}

    def bind(self, setting: Any) -> Chain:
        return Chain(tuple(g.bind(setting) for g in self.parts))

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        return predict.through(*self.parts)(x, t, cond)


@dataclass(frozen=True)
class Window(Windowed, Guidance):
    """`inner` for a part of the run; outside, the plain conditional prediction."""

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        return self.inner(predict, x, t, cond, at) if self.inside(at) else predict(x, t, cond)
