"""Running a denoiser along a grid: `sample` for the result, `trace` for every state on the way.

One picture's way: `trace` fixes the grid and binds the plug-ins; each step goes hooks -> sampler -> guidance ->
denoiser (patches inside) and back; the engine draws the law that the step returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .arguments import check_parts, integer, whole
from .cond import Cond
from .denoiser import EMPTY, Denoiser, check_finite
from .errors import BadInput, Refused
from .grid import Grid, Spacing
from .guidance import Guidance
from .hook import Hook, Hooked, Session, StepFunction
from .law import Delta, Law
from .memory import Memory, join, take
from .noise import Keyed, Noise
from .patch import Adapter, Patch
from .plugin import Needs, Plugin, Setting
from .process import Categorical, Gaussian, Process
from .sampler import Sampler
from .step import RunContext, Step
from .value import Value, batch_size

LOOKS = 10
"""Steps from one look for NaN to the next: what has once become NaN stays so, and looking costs time."""


@dataclass(frozen=True, eq=False)
class State:
    """A run between two steps: enough to go on, here or elsewhere. Tensors are replaced, never written."""

    x: Value
    i: int
    samples: tuple[int, ...]
    sampler: Any = None
    memory: Memory = field(default_factory=Memory)

    def __getitem__(self, rows: Any) -> State:
        samples = tuple(int(s) for s in torch.tensor(self.samples)[rows])
        sampler = None if self.sampler is None else take(self.sampler, rows)
        return State(take(self.x, rows), self.i, samples, sampler, self.memory.of_samples(samples))

    @staticmethod
    def cat(states: Sequence[State]) -> State:
        """States of different samples at the same step, as one batch."""
        if len({s.i for s in states}) != 1:
            raise BadInput(f"State.cat: states are at steps {sorted({s.i for s in states})}; join states of one step")
        sampler = None if states[0].sampler is None else join([s.sampler for s in states])
        return State(join([s.x for s in states]), states[0].i, tuple(k for s in states for k in s.samples), sampler,
                     Memory.cat([s.memory for s in states]))  # fmt: skip


@dataclass(frozen=True)
class Start:
    """Where a run begins: at time t, with states drawn from a law.

    `Start.noised(x0, t)` corrupts clean states, `Start.exactly(x, t)` takes states as they are.
    """

    t: float
    law: Callable[[Process], Law]

    @staticmethod
    def noised(x0: Value, t: float) -> Start:
        """Clean states x0, corrupted to time t."""
        from .value import Coef

        return Start(t, lambda process: process.marginal(x0, Coef(t)))

    @staticmethod
    def exactly(x: Value, t: float = 1.0) -> Start:
        """These states at time t."""
        return Start(t, lambda process: Delta(x))


@dataclass(frozen=True, eq=False)
class Run:
    """What `trace` yields: the state before step `at`, or after the last one (`at` is None)."""

    state: State
    at: Step | None
    evaluations: dict[int, int]

    @property
    def nfe(self) -> Tensor:
        """(B,) network evaluations spent on each sample so far."""
        return torch.tensor([self.evaluations.get(s, 0) for s in self.state.samples])


@dataclass(frozen=True, eq=False)
class Result:
    """What `sample` returns.

    Attributes:
        x: final states.
        state: final State.
        saved: what `save` returned for each step.
        nfe: (B,) network evaluations spent on each sample.
    """

    x: Value
    state: State
    saved: list[Any]
    nfe: Tensor


def trace(
    denoiser: Denoiser,
    x: Value | Sequence[int] | State | Start,
    *,
    sampler: Sampler,
    steps: int = 25,
    grid: Grid | None = None,
    spacing: Spacing | None = None,
    cond: Cond = EMPTY,
    guidance: Guidance | None = None,
    patches: Sequence[Any] = (),
    hooks: Sequence[Hook] = (),
    noise: Noise | int = 0,
    samples: Sequence[int] | None = None,
    start: float | None = None,
    stop: float | None = None,
    setting: Setting | None = None,
) -> Iterator[Run]:
    """Yield the run's state before every step and after the last one.

    Args:
        denoiser: what predicts.
        x: start states (B, ...); or a shape, drawn from the prior; or a `Start`; or a `State` to go on from.
        sampler: how a state moves.
        steps: number of steps of the full grid, >= 1.
        grid: explicit times instead of `steps`.
        spacing: how to place `steps`; default the sampler's, then evenly, `Process.even`.
        cond: conditions, one row for each sample; alternatives in `cond.alt`.
        guidance, patches, hooks: plug-ins.
        noise: a Noise, or the seed of `Keyed`.
        samples: identity of each row for noise and memory; default 0, 1, 2, ...
        start, stop: run only from time `start` down to time `stop`, 0 <= stop < start <= 1.
        setting: of a loaded model, for plug-ins that were fitted to one.

    Raises:
        BadInput: unusable numbers or shapes. Refused: parts that do not go together. Diverged: NaN.
    """
    if not isinstance(denoiser, Denoiser):
        raise BadInput(f"denoiser: a {type(denoiser).__name__} is none; give model.denoiser or suffuse.denoiser(...)")
    if not isinstance(cond, Cond):
        raise BadInput(f"cond: a {type(cond).__name__} is none; give model.condition(prompt), or Cond({{'text': ...}})")
    check_parts(sampler=sampler, spacing=spacing, guidance=guidance, patches=patches, hooks=hooks)
    noise = noise if isinstance(noise, Noise) else Keyed(integer("noise", noise))
    cond = denoiser.prepare(cond)
    process = denoiser.process.given(cond)
    if isinstance(x, Start):
        start = x.t if start is None else start
    grid = grid or grid_of(process, sampler, spacing, steps, x)
    _check(process, cond, sampler, () if guidance is None else guidance.bare, [*patches, *hooks])
    place = place_of(denoiser, grid, sampler, guidance, setting)
    sampler, hooks = sampler.bind(place), [h.bind(place) for h in hooks]
    guidances = guidance.bind(place).links if guidance is not None else ()

    denoiser = denoiser.with_(*(p.bind(place) if isinstance(p, Patch) else p for p in patches))

    run = RunContext(noise)
    if start is not None and stop is not None:
        rising = bool((grid.times[-1] > grid.times[0]).all())
        if (start <= stop) != rising:
            raise BadInput(f"start={start}, stop={stop}: this grid {'rises' if rising else 'falls'}; exchange them")
    plan = list(grid.steps(start, stop))
    if not plan:
        raise BadInput(
            f"start={start}, stop={stop}: no step of the grid lies between them; give 0 <= stop < start <= 1"
        )
    if isinstance(x, State):
        run.memory = x.memory
        state, plan = x, [step for step in plan if step[0] >= x.i]
    else:
        state = _start(x, process, noise, samples, plan[0][0])
    samples = state.samples
    if cond.rows not in (None, len(samples)):
        raise BadInput(
            f"cond has {cond.rows} rows and the state {len(samples)}; give one row of condition for each sample"
        )

    session, fresh = Session(state.sampler), state.sampler is None
    whole = Step(0, grid.n, grid.node(0), grid.node(grid.n), grid, process, samples, run)
    for k, (i, t, s) in enumerate(plan):
        at = whole.but(i=i, t=t, s=s, first=k == 0 and fresh, last=k == len(plan) - 1)
        if session.sampler_memory is None:
            session.sampler_memory = sampler.init(_centred(process, state.x, t), at)
        if k == 0:
            state = replace(state, sampler=session.sampler_memory)
        yield Run(state, at, run.evaluations)
        advance: Any = StepFunction(session, denoiser, cond, guidances, sampler, session.sampler_memory)
        for hook in reversed(hooks):
            advance = Hooked(hook, advance)
        out = advance(state.x, at)
        if at.last or k % LOOKS == LOOKS - 1:
            check_finite(out, f"step {i + 1} of {grid.n}")
        state = State(out, i + 1, samples, session.sampler_memory, Memory(run.memory.entries))
    yield Run(state, None, run.evaluations)


def place_of(
    denoiser: Denoiser, grid: Grid, sampler: Sampler, guidance: Guidance | None, known: Setting | None = None
) -> Setting:
    """The setting of a run, as plug-ins get it in `bind` and fitted things remember it."""
    return replace(
        known or Setting(),
        process=str(denoiser.process),
        sampler=str(sampler),
        guidance=str(guidance),
        times=grid.rounded,
    )


def sample(
    denoiser: Denoiser,
    x: Value | Sequence[int] | State | Start,
    *,
    save: Callable[[Run], Any] | None = None,
    progress: Callable[[Step], None] | None = None,
    gradient: bool = False,
    **settings: Any,
) -> Result:
    """Run to the end. Takes what `trace` takes, and:

    Args:
        save: called with each Run; its results are in `Result.saved`.
        progress: called with each Step before it is made.
        gradient: record the run for autograd.
    """
    saved, last = [], None
    with torch.set_grad_enabled(gradient):
        for last in trace(denoiser, x, **settings):
            if save is not None:
                saved.append(save(last))
            if progress is not None and last.at is not None:
                progress(last.at)
    assert last is not None
    return Result(last.state.x, last.state, saved, last.nfe)


def grid_of(process: Process, sampler: Sampler, spacing: Spacing | None, steps: int, x: Any = None) -> Grid:
    """The full grid of a run: the process's own, or `steps` placed by the spacing, or evenly where there is none."""
    if process.grid is not None:
        times = torch.tensor(process.grid, dtype=torch.float64)
        if spacing is not None:
            raise Refused(
                f"{type(process).__name__} runs on its own {len(times) - 1} times; leave out spacing={spacing}"
            )
        return Grid(times)
    steps, rule = whole("steps", steps), spacing or sampler.spacing
    if rule is None:
        return process.steps(steps)
    shape = (
        tuple(x.x.shape[1:])
        if isinstance(x, State) and isinstance(x.x, Tensor)
        else tuple(x.shape[1:])
        if isinstance(x, Tensor)
        else ()
    )
    if isinstance(x, (tuple, list, torch.Size)):
        shape = tuple(x[1:])
    return rule.grid(process, steps, shape)


def _centred(process: Process, x: Value, t: Any) -> Value:
    b = process.offset(t)
    return x if b is None else x - b


def _start(x: Any, process: Process, noise: Noise, samples: Sequence[int] | None, i: int) -> State:
    if isinstance(x, Start):
        law = x.law(process)
    elif isinstance(x, (tuple, list, torch.Size)):
        categorical = isinstance(process, Categorical)
        law = process.prior(torch.zeros(*x, dtype=torch.long if categorical else torch.float32))
    else:
        law = Delta(x)
    n = batch_size(law.mean)
    ids = tuple(range(n)) if samples is None else tuple(int(s) for s in samples)
    if len(ids) != n:
        raise BadInput(f"samples={list(ids)}: {len(ids)} identities for {n} states; give one each")
    drawn = law.sample(lambda like, tag="", kind="normal": getattr(noise, kind)(like, ids, f"start{tag and '/' + tag}"))
    check_finite(drawn, "the start state")
    return State(drawn, i, ids)


def _check(
    process: Process, cond: Cond, sampler: Sampler, guidances: Sequence[Plugin], others: Sequence[Plugin | Adapter]
) -> None:
    """Refuse what a plug-in needs and this run does not have; `guidances` begin with the outermost."""
    parts = [inner for p in (sampler, *guidances, *others) for inner in p.bare]
    dropping = [p for p in parts if isinstance(p, Patch) and p.drops_tokens and p != p.neutral()]
    for part in parts:
        needs, kind = part.needs, type(process).__name__
        if Needs.SAME_TOKENS in needs and dropping and part != part.neutral():
            raise Refused(f"{part}: needs as many tokens at every step and {dropping[0]} leaves some out; use only one")
        if Needs.GAUSSIAN in needs and isinstance(process, Categorical):
            remedy = "use Ancestral()" if part is sampler else "leave it out, or use a model of continuous data"
            raise Refused(f"{part}: needs a Gaussian process and {kind} is categorical; {remedy}")
        if Needs.CATEGORICAL in needs and isinstance(process, Gaussian):
            remedy = "use DDIM()" if part is sampler else "leave it out, or use a model of discrete data"
            raise Refused(f"{part}: needs a categorical process and {kind} is Gaussian; {remedy}")
        if Needs.ONE_EVALUATION in needs and sampler.many:
            raise Refused(f"{part}: needs one evaluation a step and {sampler} asks for several; use one such as DDIM()")
        if Needs.SDE in needs and sampler.convergence is not None:
            raise Refused(f"{part}: needs all the noise of the SDE and {sampler} solves the ODE; use DDPM()")
        if Needs.UNCONDITIONAL in needs and "null" not in cond.alt and part != part.neutral():
            raise Refused(
                f"{part}: needs an unconditional prediction and the condition has no alternative 'null'; "
                "give cond.with_alt(null=...), or leave the guidance out"
            )
    for outer, part in zip(guidances, guidances[1:], strict=False):
        if Needs.OUTERMOST in part.needs:
            raise Refused(f"{part}: needs to be the outermost guidance and is inside of {outer}; exchange them")
