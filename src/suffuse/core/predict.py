"""Asking the network: what stands behind the `predict` of samplers and guidances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

from .call import Context, stack
from .cond import Cond
from .denoiser import EMPTY, Denoiser
from .guidance import Guidance
from .memory import Path, Rows, below, join, rows_of
from .step import Step
from .value import Coef, Value, batch_size


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
        return self._ask(rows_of(below(self.path, path), self.at.samples), x, t, self.cond if cond is None else cond)

    def many(self, calls: Sequence[tuple[str, Value, Coef, Cond | None]], chunk: int | None = None) -> list[Any]:
        """Several branches of the same samples, (path, x, t, cond) each, in as few network calls as their shapes allow.

        `chunk` limits the branches in one call.
        """
        if self.guidance:
            first, rest = self.guidance[0], self.guidance[1:]
            out, known = [], Known() if self.known is None else self.known
            for path, x, t, cond in calls:
                whole = below(self.path, path)
                inner = Predict(self.denoiser, self.at, rest, self.cond, whole, known)
                at = self.at.scoped(("guidance", len(rest), type(first).__name__), whole)
                out.append(first(inner, x, t, self.cond if cond is None else cond, at))
            return out
        jobs = [(below(self.path, path), x, Coef(t), self.cond if cond is None else cond) for path, x, t, cond in calls]
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

    def _evaluate(self, jobs: list[Job]) -> list[Any]:
        """All these branches in one network call."""
        rows = [rows_of(path, self.at.samples) for path, *_ in jobs]
        if len(jobs) == 1:
            return [self._ask(rows[0], *jobs[0][1:])]
        _, states, times, conds = zip(*jobs, strict=True)
        size = batch_size(states[0])
        t = Coef.cat(times, [size] * len(jobs))
        p = self._ask(sum(rows, ()), join(states), t, Cond.cat(conds))
        return [p[size * k : size * (k + 1)] for k in range(len(jobs))]

    def _ask(self, rows: Rows, x: Value, t: Coef, cond: Cond) -> Any:
        """The network, which finds the run in the thread's stack."""
        before, run = stack.context, self.at.run
        stack.context = Context(self.at, rows, run.memory, run.count)
        try:
            return self.denoiser(x, t, cond.at(t))
        finally:
            stack.context = before

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
