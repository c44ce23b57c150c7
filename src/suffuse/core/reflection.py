"""Reflection: a denoising move under one setting and its exact counterpart on the grid, back, under another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Self, TypeAlias

from .denoiser import Denoiser
from .errors import BadInput
from .guidance import Guidance
from .hook import Hook, StepFunction
from .patch import Adapter, Patch
from .plugin import Needs, Plugin, Prompt, Setting
from .registry import method
from .sampler import Sampler
from .step import Step
from .value import Value


@method(tags=("reflection",))
@dataclass(frozen=True)
class Branch:
    """Another setting of a run's step: what is left out is as in the run.

    Args:
        guidance: instead of the run's; CFG(1) is the plain conditional prediction.
        patches: patches and adapters that the network wears besides.
        denoiser: instead of the run's. One of another Gaussian process is read in the run's.
        path: name of the condition's alternative to ask with, `cond.alt[path]`; "" is the condition itself.
        prompt: text that the model encodes as that alternative, the same for every picture.

    Raises:
        BadInput: a prompt without the name of its alternative.
    """

    guidance: Guidance | None = None
    patches: tuple[Patch | Adapter, ...] = ()
    denoiser: Denoiser | None = None
    path: str = ""
    prompt: Prompt | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None and not self.path:
            raise BadInput(
                f"Branch(prompt={self.prompt!r:.40}): its alternative has no name; give path, such as 'rich'"
            )

    @classmethod
    def of(cls, given: Given) -> Branch:
        """The branch that differs from the run in this one thing."""
        if isinstance(given, Branch):
            return given
        if isinstance(given, Guidance):
            return cls(guidance=given)
        if isinstance(given, (Patch, Adapter)):
            return cls(patches=(given,))
        if isinstance(given, Denoiser):
            return cls(denoiser=given)
        raise BadInput(f"branch {given!r:.60}: give a guidance, a patch, an adapter, a denoiser or a Branch of several")

    @property
    def needs(self) -> Needs:
        """What it asks of a run by itself; its plug-ins say theirs."""
        return Needs.UNCONDITIONAL if self.path == "null" else Needs.NOTHING

    @property
    def bare(self) -> tuple[Plugin, ...]:
        """The plug-ins in it, without what is around them."""
        return tuple(inner for part in self._plugins for inner in part.bare)

    def prompts(self) -> Mapping[str, Prompt]:
        """Texts that the model is to encode for it."""
        own = {} if self.prompt is None else {self.path: self.prompt}
        return own | {k: v for part in self._plugins if isinstance(part, Plugin) for k, v in part.prompts().items()}

    def bind(self, setting: Setting) -> Branch:
        """The branch with its plug-ins bound."""
        guidance = None if self.guidance is None else self.guidance.bind(setting)
        patches = tuple(p.bind(setting) if isinstance(p, Patch) else p for p in self.patches)
        return replace(self, guidance=guidance, patches=patches)

    def of_step(self, step: StepFunction, at: Step, moves: Sampler) -> StepFunction:
        """The run's step in this setting, moved by another sampler."""
        net = self.denoiser
        if net is not None and net.process != at.process:
            net = net.under(at.process)
        return step.using(
            denoiser=net,
            cond=step.cond.branch(self.path) if self.path else None,
            guidance="same" if self.guidance is None else self.guidance,
            patches=self.patches,
            sampler=moves,
        )

    @property
    def _plugins(self) -> Iterable[Any]:
        return (*(() if self.guidance is None else (self.guidance,)), *self.patches)


Given: TypeAlias = Branch | Guidance | Patch | Adapter | Denoiser
"""What says a branch: a `Branch`, or the one thing that differs."""


def reflect(step: StepFunction, x: Value, at: Step, strong: Branch, weak: Branch, moves: Sampler) -> Value:
    """x~_t = M_w^inv(M_s(x_t, t), s): from t to s by the strong setting, from s back to t by the weak one.

    To first order x~_t - x_t is (s - t) times the difference of the two velocities at x_t: along eps_weak - eps_strong,
    up the gradient of log p_strong - log p_weak. What plug-ins remember of the run is not touched.

    Args:
        step: the run's step.
        x: the state at at.t.
        at: the step; at.s is to be above 0, because networks were not trained to leave clean data.
        strong, weak: settings of the two moves.
        moves: the deterministic sampler that makes them, DDIM(0) (Euler's method on flows).

    Returns:
        the state x~ at at.t. It costs what one prediction of each setting does.
    """
    y = strong.of_step(step, at, moves)(x, at.aside("strong"))
    return weak.of_step(step, at, moves)(y, at.aside("weak").back())


class Branched(Plugin):
    """A plug-in that asks on branches of its own, whose plug-ins and texts are its own, too."""

    always: ClassVar[Needs] = Needs.NOTHING
    """What it needs whatever its branches are."""

    @property
    @abstractmethod
    def _branches(self) -> tuple[Branch, ...]: ...

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return reduce(or_, (branch.needs for branch in self._branches), self.always)

    @property
    def bare(self) -> tuple[Plugin, ...]:
        return self, *(inner for branch in self._branches for inner in branch.bare)

    def prompts(self) -> Mapping[str, Prompt]:
        return {k: v for branch in self._branches for k, v in branch.prompts().items()}


@dataclass(frozen=True)
class Reflection(Branched, Hook):
    """A hook that reflects under two settings, each said by what differs from the run."""

    strong: Given
    weak: Given

    always = Needs.GAUSSIAN

    def __post_init__(self) -> None:
        self._branches  # noqa: B018  what is no setting is found here and not in the middle of a run

    @property
    def _branches(self) -> tuple[Branch, Branch]:
        return Branch.of(self.strong), Branch.of(self.weak)

    def bind(self, setting: Setting) -> Self:
        strong, weak = (branch.bind(setting) for branch in self._branches)
        return replace(self, strong=strong, weak=weak)
