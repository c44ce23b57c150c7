"""One step of a run, as samplers, guidances and hooks receive it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .call import stack
from .errors import Refused
from .grid import Grid
from .law import Law
from .memory import Memory, Path, Scope, below, rows_of
from .noise import Keyed, Noise
from .prediction import Prediction
from .process import Process
from .value import Coef, Value


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
        object.__setattr__(new, "__dict__", {**self.__dict__, **changes})
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
