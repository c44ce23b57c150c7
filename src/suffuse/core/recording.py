"""A run as data: its states, and what was predicted at each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .cond import Cond
from .denoiser import Denoiser
from .engine import sample
from .guidance import Guidance
from .memory import Path
from .predict import Predict
from .step import Step
from .value import Coef, Value


@dataclass(frozen=True, eq=False)
class Recorder(Guidance):
    """Changes nothing, and keeps the first prediction of every step on every path.

    `Recorder() | CFG(5)` keeps the guided predictions, under the path ""; `CFG(5) | Recorder()` the branches, under
    "cond" and "null".

    Attributes:
        kept: (path, step) -> prediction; `.x` is the state it was made at, `.eps` and `.x0` what it says.
    """

    kept: dict[tuple[Path, int], Any] = field(default_factory=dict, repr=False)

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        p = predict(x, t, cond)
        self.kept.setdefault((at.path, at.i), p)
        return p


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A recorded run of n steps.

    Attributes:
        times: (n + 1) of the states.
        states: (n + 1) times x, (B, ...).
        predictions: n predictions, each made at the state of its step; e is `.eps`, x0-hat is `.x0`.
        samples: (B) identities of the rows.
    """

    times: tuple[float, ...]
    states: tuple[Value, ...]
    predictions: tuple[Any, ...]
    samples: tuple[int, ...]


def record(denoiser: Denoiser, x: Any, *, guidance: Guidance | None = None, **run: Any) -> Trajectory:
    """Run to the end and keep every state and the guided prediction made at it.

    Args:
        denoiser, x, guidance, run: as for `sample`. Of samplers of several evaluations the first of each step is kept.
    """
    recorder, times = Recorder(), []
    result = sample(
        denoiser,
        x,
        guidance=recorder if guidance is None else recorder | guidance,
        save=lambda run: run.state.x,
        progress=lambda at: times.append((at.t.item(), at.s.item())),
        **run,
    )
    predictions = tuple(p for (path, _), p in sorted(recorder.kept.items(), key=lambda kept: kept[0][1]) if not path)
    return Trajectory((times[0][0], *(s for _, s in times)), tuple(result.saved), predictions, result.state.samples)
