"""One step of a run: what samplers, guidances and hooks receive and how they ask the network.

Sampler   step(predict, x, at, memory) -> (next x or its Law, memory)
Guidance  (predict, x, t, cond, at) -> Prediction          A | B: A is outermost and sees B as its `predict`
Hook      (step, x, at) -> x                                middleware of the whole step
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from .call import Context, stack, using
from .cond import Cond
from .denoiser import EMPTY, Denoiser
from .errors import Refused
from .grid import Grid, Spacing
from .law import Law
from .memory import Memory, Path, Scope, below, join, rows_of, take
from .noise import Keyed, Noise
from .plugin import Needs, Plugin
from .prediction import Prediction
from .process import Gaussian, Process
from .value import Coef, Value, batch_size


# one step -------------------------------------------------------------------------------------------------------------
@dataclass(eq=False)
class RunContext:
    """What all steps of one run share."""

    noise: Noise
    memory: Memory = field(default_factory=Memory)
    evaluations: dict[int, int] = field(default_factory=dict)

    def count(self, rows: Sequence[tuple[str, int]]) -> None:
        """Called where the network is called: one evaluation for each row's sample."""
        for _, sample in rows:
            self.evaluations[sample] = self.evaluations.get(sample, 0) + 1


@dataclass(frozen=True, eq=False)
class Step:
    """A move from t to s for some samples. It is pure: it may be asked (`move`), repeated (`fold`) or undone (`back`).

    Attributes:
        i, n: position in the full grid of n steps.
        t, s: times, Coefs.
        first, last: of this run.
        path: branch on which a plug-in is being asked; one for each row where several are asked at once.
    """

    i: int
    n: int
    t: Coef
    s: Coef
    grid: Grid
    process: Any
    samples: tuple[int, ...]
    run: RunContext
    first: bool = False
    last: bool = False
    path: Path = ""
    owner: Any = None
    folds: str = ""
    mover: Callable[[Any, Step], Any] | None = None

    def but(self, **changes: Any) -> Step:
        """A copy with other fields; what dataclasses.replace does, at a fifth of its cost."""
        new = object.__new__(Step)
        new.__dict__.update(self.__dict__)
        new.__dict__.update(changes)
        return new

    @property
    def progress(self) -> float:
        """Share of the full grid that is done, i / n."""
        return self.i / self.n

    @property
    def memory(self) -> Scope:
        """What the plug-in at hand remembers, for these samples on this path."""
        return Scope(self.run.memory, self.owner, rows_of(self.path, self.samples), self.i)

    def noise(self, like: Value, tag: str = "", kind: str = "normal") -> Value:
        """Noise of this step for these samples; another `tag` gives independent noise."""
        source = getattr(self.run.noise, kind)
        return source(like, self.samples, f"step/{self.i}{self.folds}{tag and '/' + tag}")

    def fold(self, k: int | str) -> Step:
        """The same step with fresh noise."""
        return self.but(folds=f"{self.folds}#{k}")

    def back(self) -> Step:
        """The exact counterpart on the grid: t and s exchanged."""
        return self.but(t=self.s, s=self.t)

    def aside(self, path: str) -> Step:
        """The same move on a branch of its own, where nobody begins a run or remembers what belongs to the run."""
        return self.but(path=below(self.path, path), first=False)

    def __getitem__(self, rows: Any) -> Step:
        index = torch.arange(len(self.samples))[rows].tolist()
        path = self.path if isinstance(self.path, str) else tuple(self.path[k] for k in index)
        samples = tuple(self.samples[k] for k in index)
        return self.but(t=self.t[rows], s=self.s[rows], samples=samples, path=path)

    def spread(self, names: Sequence[str]) -> Step:
        """The same move on several branches at once: the rows of the first, then those of the next, and so on."""
        n, rows = len(names), len(self.samples)
        paths = (self.path,) * rows if isinstance(self.path, str) else self.path
        t, s = (Coef.cat([c] * n, [rows] * n) for c in (self.t, self.s))
        return self.but(
            t=t, s=s, samples=self.samples * n, path=tuple(str(below(p, name)) for name in names for p in paths)
        )

    def scoped(self, owner: Any, path: Path | None = None) -> Step:
        """The step as seen by one plug-in."""
        return self.but(owner=owner, path=self.path if path is None else path)

    def move(self, p: Prediction, z: Tensor | float | None = None) -> Any:
        """What the sampler's own step would return for prediction `p`.

        `z` replaces the step's noise: a tensor, or 0 and 1 for the mean and one standard deviation above it. Only for
        samplers of one evaluation a step.
        """
        if self.mover is None:
            raise Refused(
                "at.move: this sampler asks several times a step; use one of a single evaluation, such as DDIM"
            )
        law = self.mover(p, self)
        if not isinstance(law, Law):
            return law
        if z is None:
            return law.sample(self.noise)
        return law.at(z)


def outside(process: Process, t: Any, batch: int) -> Step:
    """A step for predictions that no sampler asks for; inside of a run it counts its evaluations there."""
    t = Coef(t)
    at = Step(0, 1, t, t, Grid(torch.tensor([1.0, 0.0])), process, tuple(range(batch)), RunContext(Keyed(0)))
    context = stack.context
    if context is None or context.at is None:
        return at
    return at.but(run=context.at.run, i=context.at.i, n=context.at.n, samples=tuple(s for _, s in context.rows))


# plug-ins -------------------------------------------------------------------------------------------------------------
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

    @property
    def many(self) -> bool:
        """True when a step asks for several predictions."""
        return Needs.ONE_EVALUATION not in self.needs


class Guidance(Plugin):
    """Makes one prediction out of several evaluations."""

    evaluations: ClassVar[int | None] = None
    """Most evaluations of the network that it asks of one sample for one prediction; None where that depends."""

    @abstractmethod
    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        """The prediction at state x and time t (a stage between at.t and at.s for samplers of several evaluations)."""

    def __or__(self, other: Guidance) -> Guidance:
        return Chain((*_chain(self), *_chain(other)))

    def during(self, start: float, stop: float) -> Guidance:
        """This guidance for start <= progress < stop; outside, the plain conditional prediction."""
        return Window(self, start, stop)


def _chain(g: Guidance) -> tuple[Guidance, ...]:
    return g.parts if isinstance(g, Chain) else (g,)


@dataclass(frozen=True)
class Chain(Guidance):
    """Guidances one inside the other, the first outermost."""

    parts: tuple[Guidance, ...]

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
class Window(Guidance):
    """`inner` for a part of the run."""

    inner: Guidance
    start: float
    stop: float

    @property
    def bare(self) -> tuple[Plugin, ...]:
        return self.inner.bare

    def prompts(self) -> Mapping[str, Any]:
        return self.inner.prompts()

    def bind(self, setting: Any) -> Window:
        return replace(self, inner=self.inner.bind(setting))

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        return self.inner(predict, x, t, cond, at) if self.start <= at.progress < self.stop else predict(x, t, cond)


class Hook(Plugin):
    """Middleware around a step: may change x before and after, repeat it, go back, or use other settings."""

    @abstractmethod
    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        """The state at at.s."""

    def during(self, start: float, stop: float) -> Hook:
        """This hook for start <= progress < stop."""
        return HookWindow(self, start, stop)


@dataclass(frozen=True)
class HookWindow(Hook):
    """`inner` for a part of the run."""

    inner: Hook
    start: float
    stop: float

    @property
    def bare(self) -> tuple[Plugin, ...]:
        return self.inner.bare

    def prompts(self) -> Mapping[str, Any]:
        return self.inner.prompts()

    def bind(self, setting: Any) -> HookWindow:
        return replace(self, inner=self.inner.bind(setting))

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        return self.inner(step, x, at) if self.start <= at.progress < self.stop else step(x, at)


# asking the network ---------------------------------------------------------------------------------------------------
class Predict:
    """`predict(x, t, cond=None, path="")` -> Prediction for the samples at hand; every evaluation is counted.

    What guidances of one chain ask twice is evaluated once: a row at the same state, time and condition is known.

    Args:
        denoiser: what is asked.
        at: the step that asks.
        guidance: what stands between, outermost first.
        cond: default condition.
        path: prefix of the paths of its rows.
        known: evaluations made for this prediction; shared along a chain.
    """

    __slots__ = ("at", "cond", "denoiser", "guidance", "known", "path")

    def __init__(
        self,
        denoiser: Denoiser,
        at: Step,
        guidance: tuple[Guidance, ...] = (),
        cond: Cond = EMPTY,
        path: Path = "",
        known: Known | None = None,
    ):
        self.denoiser, self.at, self.guidance, self.cond, self.path = denoiser, at, guidance, cond, path
        self.known = known

    def __call__(self, x: Value, t: Coef, cond: Cond | None = None, path: str = "") -> Any:
        if self.guidance or self.known is not None:
            return self.many([(path, x, t, cond)])[0]
        return self._evaluate([(below(self.path, path), x, t, (self.cond if cond is None else cond).at(t))])[0]

    def many(self, calls: Sequence[tuple[str, Value, Coef, Cond | None]], chunk: int | None = None) -> list[Any]:
        """Several branches of the same samples, (path, x, t, cond) each, in as few network calls as their shapes allow.

        `chunk` limits the branches in one call.
        """
        if self.guidance:
            first, rest = self.guidance[0], self.guidance[1:]
            out, known = [], Known() if self.known is None else self.known
            for path, x, t, cond in calls:
                whole = self._join(path)
                inner = Predict(self.denoiser, self.at, rest, self.cond, whole, known)
                at = self.at.scoped(("guidance", len(rest), type(first).__name__), whole)
                out.append(first(inner, x, t, self.cond if cond is None else cond, at))
            return out
        jobs = [(self._join(path), x, Coef(t), self.cond if cond is None else cond) for path, x, t, cond in calls]
        results = [None if self.known is None else self.known.find(job) for job in jobs]
        waiting = [j for j, found in enumerate(results) if found is None]
        # Functions of t are evaluated before branches are grouped: only tensors tell what goes together.
        ready = [(path, x, t, cond.at(t)) for path, x, t, cond in jobs]
        while waiting:
            head = ready[waiting[0]]
            group = [
                j
                for j in waiting
                if j == waiting[0] or (_shape(ready[j][1]) == _shape(head[1]) and head[3].joins(ready[j][3]))
            ]
            group = group[:chunk] if chunk else group
            for j, p in zip(group, self._evaluate([ready[j] for j in group]), strict=True):
                results[j] = p
                if self.known is not None:
                    self.known.keep(jobs[j], p)
            waiting = [j for j in waiting if j not in group]
        return results

    def _join(self, path: str) -> Path:
        return below(self.path, path)

    def _evaluate(self, jobs: list[Job]) -> list[Any]:
        at, run = self.at, self.at.run
        rows = tuple(row for path, *_ in jobs for row in rows_of(path, at.samples))
        with using(context=Context(at, rows, run.memory, run.count)):
            if len(jobs) == 1:
                _, x, t, cond = jobs[0]
                return [self.denoiser(x, t, cond)]
            size = batch_size(jobs[0][1])
            x = join([x for _, x, _, _ in jobs])
            t = Coef.cat([t for _, _, t, _ in jobs], [size] * len(jobs))
            p = self.denoiser(x, t, Cond.cat([c for *_, c in jobs]))
        return [p[size * k : size * (k + 1)] for k in range(len(jobs))]

    @property
    def plain(self) -> Predict:
        """The same question to the network itself, without guidance in between."""
        return Predict(self.denoiser, self.at, (), self.cond, self.path, self.known)

    def __getitem__(self, rows: Any) -> Predict:
        """The same for some of the samples; give x, t and cond of those rows."""
        return self._at(self.at.but(path=self.path)[rows], self.cond[rows])

    def spread(self, names: Sequence[str]) -> Predict:
        """The same question on several branches at once; give x, t and cond of all rows, branch after branch.

        Guidance in between is asked once for all of them, so that their evaluations share network calls.
        """
        return self._at(self.at.but(path=self.path).spread(names), Cond.cat([self.cond] * len(names)))

    def _at(self, at: Step, cond: Cond) -> Predict:
        return Predict(self.denoiser, at, self.guidance, cond, at.path)

    def on(self, denoiser: Denoiser) -> Predict:
        """The same question to another denoiser."""
        return Predict(denoiser, self.at, self.guidance, self.cond, self.path)

    def with_(self, *items: Any) -> Predict:
        """The same question with patches or adapters active."""
        return self.on(self.denoiser.with_(*items))

    def through(self, *guidance: Guidance) -> Predict:
        """The same question with more guidance in between."""
        return Predict(self.denoiser, self.at, (*guidance, *self.guidance), self.cond, self.path, self.known)


Job: TypeAlias = tuple[Path, Value, Coef, Cond]
"""One branch to evaluate: path, state, time, condition."""


class Known:
    """Evaluations made for one prediction, by path; it lives as long as the question that a sampler asks."""

    __slots__ = ("made",)

    def __init__(self) -> None:
        self.made: dict[Path, list[tuple[Job, Any]]] = {}

    def find(self, job: Job) -> Any:
        """The prediction of this branch, or None; states and conditions are compared by identity."""
        path, x, t, cond = job
        for (_, x_k, t_k, cond_k), p in self.made.get(path, ()):
            entries = cond.entries
            if x_k is x and t_k.d is t.d and entries.keys() == cond_k.entries.keys():
                if all(cond_k.entries[k] is v for k, v in entries.items()):
                    return p
        return None

    def keep(self, job: Job, p: Any) -> None:
        """Remember a prediction; the job is kept with it, so that identities stay what they are."""
        self.made.setdefault(job[0], []).append((job, p))


def _shape(x: Value) -> Any:
    return x.shape if isinstance(x, Tensor) else tuple((k, v.shape) for k, v in x.parts.items())


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
        chain = self.guidance if guidance == "same" else () if guidance is None else _chain(guidance)  # type: ignore[arg-type]
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


@dataclass(eq=False)
class Session:
    """Mutable part of a running trace: the sampler's memory between steps."""

    sampler_memory: Any = None
