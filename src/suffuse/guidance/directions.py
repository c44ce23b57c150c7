"""Directions of concepts: how a network's output moves when a further text is added to what it is told.

    d_i = e(x_t, c_i) - e(x_t, null)

taken in the network's own output, whose differences are those of the noise times one number a sample: masks by
quantile and angles are the same there, and nothing is lost at either end of the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.cond import Cond
from ..core.engine import State
from ..core.errors import BadInput, Refused
from ..core.guidance import Guidance
from ..core.memory import Scope, rows_of
from ..core.plugin import Prompt
from ..core.predict import Predict
from ..core.registry import method
from ..core.value import Coef, Tree, Value, dot


@method(tags=("editing",))
@dataclass(frozen=True)
class Concept:
    """Something to be added to a picture or removed from it, and how.

    A batch may ask for another text in each of its rows: give them as `cond.alt["concept:NAME"]` and the name as
    `prompt`.

    Args:
        prompt: what it is.
        scale: s, strength of its direction.
        threshold: lambda, what decides where it acts; None is that of the guidance.
        weight: g, its share in the sum of all concepts.
        remove: lead away from it instead of towards it.
        start, stop: it acts for start <= progress < stop, as shares of the run.

    Raises:
        BadInput: a window that is empty, or begins before the run.

    Example:
        >>> model.generate("a red circle", guidance=SEGA((Concept("striped", scale=7),)) | CFG(5))
    """

    prompt: Prompt
    scale: float = 5.0
    threshold: float | None = None
    weight: float = 1.0
    remove: bool = False
    start: float = 0.2
    stop: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.stop:
            raise BadInput(f"Concept(start={self.start}, stop={self.stop}): give 0 <= start < stop, as shares of a run")

    @property
    def name(self) -> str:
        """Name of its alternative in a condition, and of the branch on which it is evaluated."""
        return f"concept:{self.prompt}"

    @property
    def sign(self) -> float:
        """+1 to add, -1 to remove."""
        return -1.0 if self.remove else 1.0


def evaluated(predict: Predict, x: Value, t: Coef, cond: Cond, names: Sequence[str], what: object) -> tuple[Any, ...]:
    """The predictions of "null" and of other alternatives by the network itself, in one call."""
    missing = [name for name in names if name not in cond.alt]
    if missing:
        raise Refused(
            f"{what}: the condition has no alternative {missing[0]!r}; run it through Model.generate, which encodes "
            "it, or give it by cond.with_alt"
        )
    return tuple(predict.plain.many([(name, x, t, cond.branch(name)) for name in ("null", *names)]))


def conditional(predict: Predict, p: Any, x: Value, t: Coef, cond: Cond) -> Any:
    """The network's own prediction for the prompt, where `p` is what the guidances further in made of it."""
    return predict.plain(x, t, cond, "cond") if predict.guidance else p


def largest(v: Value, quantile: float) -> Value:
    """True where an entry's magnitude is at least this quantile of its channel, and so in 1 - quantile of them."""
    if isinstance(v, Tree):
        return v.map(lambda part: largest(part, quantile))
    size = v.abs().float()
    ranked = (size.flatten(2) if v.ndim > 2 else size[:, None]).sort(-1).values
    place = quantile * (ranked.shape[-1] - 1)
    low = int(place)
    high = min(low + 1, ranked.shape[-1] - 1)
    bound = torch.lerp(ranked[..., low], ranked[..., high], place - low)
    return size >= (bound.reshape(*bound.shape, *[1] * (v.ndim - 2)) if v.ndim > 2 else bound)


def perpendicular(v: Value, others: Sequence[Value]) -> Value:
    """v minus its projections on others, one after the other; one that is zero takes nothing away."""
    for other in others:
        v = v - Coef(dot(v, other) / dot(other, other).clamp(min=1e-30)) * other
    return v


def with_momentum(memory: Scope, name: str, v: Value, scale: float, beta: float) -> Value:
    """v + scale nu, and for the next step nu <- beta nu + (1 - beta) (v + scale nu)."""
    nu = memory.get(name)
    v = v if nu is None else v + scale * nu
    memory[name] = (1.0 - beta) * v if nu is None else beta * nu + (1.0 - beta) * v
    return v


def remembered(state: State, guidance: type[Guidance], name: str) -> Any:
    """What a guidance of a run last stored under this name, one row for each sample of `state`; None if nothing.

    `sample(..., save=lambda run: remembered(run.state, SEGA, "masks"))` records it step by step.
    """
    for key, blocks in state.memory.entries.items():
        (kind, *_, owner), stored = key
        if (kind, owner, stored) != ("guidance", guidance.__name__, name):
            continue
        for path in {block.rows[0][0] for block in blocks}:
            value = state.memory.find(key, rows_of(path, state.samples))
            if value is not None:
                return value
    return None
