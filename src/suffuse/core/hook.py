"""Hook: middleware around a whole step, and the step that it is around.

(step, x, at) -> x
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .cond import Cond
from .denoiser import Denoiser
from .guidance import Guidance
from .law import Law
from .plugin import Plugin, Windowed
from .predict import Predict
from .sampler import Centred, Mover, Sampler
from .step import Step
from .value import Coef, Value


class Hook(Plugin):
    """Middleware around a step: may change x before and after, repeat it, go back, or use other settings."""

    @abstractmethod
    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        """The state at at.s."""

    def during(self, start: float, stop: float) -> Hook:
        """This hook for start <= progress < stop."""
        return HookWindow(self, start, stop)


@dataclass(frozen=True)
class HookWindow(Windowed, Hook):
    """`inner` for a part of the run; outside, the plain step."""

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        return self.inner(step, x, at) if self.inside(at) else step(x, at)


@dataclass(eq=False)
class Session:
    """Mutable part of a running trace: the sampler's memory between steps."""

    sampler_memory: Any = None


class StepFunction:
    """`step(x, at)`: the sampler's step with the run's settings, as hooks see it."""

    __slots__ = ("cond", "denoiser", "guidance", "memory", "sampler", "session")

    def __init__(
        self,
        session: Session,
        denoiser: Denoiser,
        cond: Cond,
        guidance: tuple[Guidance, ...],
        sampler: Sampler,
        memory: Any,
    ):
        self.session, self.denoiser, self.cond = session, denoiser, cond
        self.guidance, self.sampler, self.memory = guidance, sampler, memory

    def using(
        self,
        *,
        denoiser: Denoiser | None = None,
        cond: Cond | None = None,
        guidance: Guidance | None | str = "same",
        sampler: Sampler | None = None,
        patches: Sequence[Any] = (),
    ) -> StepFunction:
        """The same step with other settings; `guidance=None` is none at all.

        Another sampler starts anew, and the run's own finds its memory as it left it. With the run's sampler, the step
        that is made last is the one that it remembers.
        """
        net = (denoiser or self.denoiser).with_(*patches)
        chain = self.guidance if guidance == "same" else () if guidance is None else guidance.links  # type: ignore[union-attr]
        session, memory = (self.session, self.memory) if sampler is None else (Session(), None)
        return StepFunction(session, net, self.cond if cond is None else cond, chain, sampler or self.sampler, memory)

    def predict(self, at: Step) -> Predict:
        """How this step asks the network."""
        return Predict(self.denoiser, at, self.guidance, self.cond, at.path)

    def __call__(self, x: Value, at: Step) -> Value:
        whole = at.process
        b = whole.offset(at.t)
        if b is None:
            return self._step(x, at, lambda z, t: z)
        z = self._step(x - b, at.but(process=Centred(whole)), lambda z, t: z + whole.offset(t))
        return z + whole.offset(at.s)

    def _step(self, z: Value, at: Step, uncentre: Callable[[Value, Coef], Value]) -> Value:
        """The sampler's step on the centred state z."""
        memory = self.sampler.init(z, at) if self.memory is None else self.memory
        if not self.sampler.many:
            at = at.but(mover=Mover(self.sampler, z, at.samples, memory))
        ask = self.predict(at)
        out, self.session.sampler_memory = self.sampler.step(lambda z, t: ask(uncentre(z, t), t), z, at, memory)
        return out.sample(at.noise) if isinstance(out, Law) else out


class Hooked:
    """A hook around a step function; offers hooks further out the same interface."""

    def __init__(self, hook: Hook, inner: Any):
        self.hook, self.inner = hook, inner

    def __call__(self, x: Value, at: Step) -> Value:
        return self.hook(self.inner, x, at.scoped(("hook", type(self.hook).__name__)))

    @property
    def cond(self) -> Cond:
        """Condition of the inner step."""
        return self.inner.cond

    def using(self, **settings: Any) -> Hooked:
        """The inner step with other settings, this hook still around it."""
        return Hooked(self.hook, self.inner.using(**settings))

    def predict(self, at: Step) -> Any:
        """How the inner step asks the network."""
        return self.inner.predict(at)
