"""Noise in the edited region alone, and steps that are made again: two hooks of drag editing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.hook import Hook, StepFunction
from ..core.law import Law, Normal
from ..core.memory import rows_of
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Coef, Value, put, sqrt, where
from ..samplers.ancestral import DDIM
from .branches import pairs_at
from .feature_probe import PROBED
from .regions import Operation, Pointed


@dataclass(frozen=True, eq=False)
class RegionalDDIM(Sampler):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z,  std = eta reverse_std(t, s), eta (B, 1, h, w)."""

    eta: Tensor
    z: Tensor

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        p, std = predict(x, at.t), Coef(self.eta) * at.process.reverse_std(at.t, at.s)
        left = at.process.sigma(at.s) * at.process.sigma(at.s) - std * std
        mean = p.combined(at.process.alpha(at.s), sqrt(where(left > 0.0, left, 0.0)))
        return Normal(mean, std).at(self.z), memory


@method(paper="diffeditor")
@dataclass(frozen=True)
class RegionalSDE(Hook):
    """DDIM with noise eta where the picture may change, and without elsewhere.

    Args:
        operation: what is to become of the region.
        eta: share of the posterior's noise, 0 to 1; 0 leaves the run alone.
        start, stop: shares of the run between which it acts, without both; the paper's steps 11 to 19 of 50.

    Raises:
        BadInput: numbers out of range, or no mask.

    Example:
        >>> edit(model, image, prompt, prompt, editor=[RegionEnergy(op), RegionalSDE(op), KVBank()], mask=mask)

    Reference: Mou et al., DiffEditor: Boosting Accuracy and Flexibility on Diffusion-based Image Editing, 2402.02583.
    """

    operation: Operation
    eta: float = 0.4
    start: float = 10 / 50
    stop: float = 20 / 50

    needs = Needs.GAUSSIAN | Needs.COUPLES | Needs.ONE_EVALUATION

    def __post_init__(self) -> None:
        if not (0.0 <= self.eta <= 1.0 and 0.0 <= self.start <= 1.0 and 0.0 <= self.stop <= 1.0):
            raise BadInput(f"{self}: eta, start and stop lie in [0, 1]")

    @property
    def places(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.operation.places

    def neutral(self) -> RegionalSDE:
        """No noise."""
        return replace(self, eta=0.0)

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if not self.eta or not self.start < at.progress < self.stop:
            return step(x, at)
        targets, sources = pairs_at(at.samples, step.cond, self)
        taken = self.operation.taken(rows_of("", at.samples), sources)
        free = self.operation.on(x, Pointed.at(step.cond, self.operation, targets, taken)).free
        eta = put(x.new_zeros(len(x), 1, *x.shape[2:]), targets, self.eta * free)
        own = list(at.samples)
        for target, source in zip(targets, sources, strict=True):
            own[target] = at.samples[source]  # so that a pair's noise does not depend on how many pairs there are
        return step.using(sampler=RegionalDDIM(eta, at.but(samples=tuple(own)).noise(x, "region")))(x, at)


@dataclass(frozen=True)
class Alone(Guidance):
    """The plain conditional prediction, in which no branch attends to another."""

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        return predict.plain(x, t, cond, PROBED)


@method(paper="diffeditor")
@dataclass(frozen=True)
class TimeTravel(Hook):
    """Some steps are made several times; in between the target goes back by a step of DDIM, unguided and on its own.

    Args:
        times: that each such step is made; 1 leaves the run alone.
        start, stop: shares of the run between which it acts, without both; the paper's steps 22 to 28 of 50.
        every: it acts on every so many steps.

    Raises:
        BadInput: numbers out of range.

    Example:
        >>> edit(model, image, prompt, prompt, editor=[RegionEnergy(op), TimeTravel(), KVBank()], mask=mask)

    Reference: Mou et al., DiffEditor: Boosting Accuracy and Flexibility on Diffusion-based Image Editing, 2402.02583.
    """

    times: int = 3
    start: float = 20 / 50
    stop: float = 30 / 50
    every: int = 2

    needs = Needs.GAUSSIAN | Needs.COUPLES

    def __post_init__(self) -> None:
        if not (self.times >= 1 and self.every >= 1 and 0.0 <= self.start <= 1.0 and 0.0 <= self.stop <= 1.0):
            raise BadInput(f"{self}: times and every are 1 or more, start and stop lie in [0, 1]")

    def neutral(self) -> TimeTravel:
        """Every step once."""
        return replace(self, times=1)

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        z = step(x, at)
        if not self.start < at.progress < self.stop or at.i % self.every:
            return z
        targets, _ = pairs_at(at.samples, step.cond, self)
        for k in range(1, self.times):
            back = step.using(guidance=Alone(), sampler=DDIM())(z, at.back())
            z = step(put(x, targets, back[targets]), at.fold(k))
        return z
