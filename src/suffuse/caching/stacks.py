"""Ways of saving work that run together: what was measured of them, the best, and how it is kept and run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import Damaged, Refused
from ..core.expression import parse, unparse
from ..core.files import read_json, write_json
from ..core.metric import Estimate
from ..core.tuned import Mode
from ..tuning import in_modes

if TYPE_CHECKING:
    from ..core.model import Model

AXES = ("steps", "guidance", "depth", "tokens", "width", "bits", "kernels", "devices")
"""What work can be saved on: the survey's taxonomy, from the run down to the machine."""


@dataclass(frozen=True)
class Option:
    """One way to save work on one axis.

    Args:
        axis: one of `AXES`.
        settings: what it changes of `Model.generate`: "sampler", "steps", "guidance", "patches".
        modes: how it computes the network ("mode") and the decoder ("decoder"), as for `suffuse.tuning.in_modes`.
    """

    axis: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    modes: Mapping[str, Mode] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{k} {_said(v)}" for k, v in {**self.settings, **self.modes}.items())


@dataclass(frozen=True)
class Stack:
    """Options that run together, no two of them on one axis.

    Args:
        options: in the order of axes; none is the baseline.
        macs: multiplications, as a share of the baseline's; those of other number types count alike.
        nfe: evaluations of a sample.
        time: share of the baseline's time, the median of interleaved pairs.
        error: mean error over the baseline's.
    """

    options: tuple[Option, ...]
    macs: float
    nfe: float
    time: Estimate
    error: Estimate

    def __str__(self) -> str:
        return "; ".join(map(str, self.options)) or "baseline"

    def beats(self, other: Stack) -> bool:
        """Whether it is at least as good in time and in error, and better in one."""
        ours, theirs = (self.time.mean, self.error.mean), (other.time.mean, other.error.mean)
        return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


@dataclass(frozen=True)
class Recipe:
    """How a stack is run.

    Args:
        settings: arguments of `Model.generate`.
        modes: of the network ("mode") and the decoder ("decoder"), where they are not computed plainly.

    Example:
        >>> recipe = load_recipe("plan.json")
        >>> recipe.on(model).generate("a red circle", **recipe.settings)
    """

    settings: Mapping[str, Any]
    modes: Mapping[str, Mode] = field(default_factory=dict)

    @staticmethod
    def of(base: Mapping[str, Any], options: Iterable[Option]) -> Recipe:
        """Patches of several options run together; of everything else the last one holds."""
        settings = dict(base)
        modes: dict[str, Mode] = {}
        for option in options:
            patches = [*settings["patches"], *option.settings.get("patches", ())]
            settings |= {**option.settings, "patches": patches}
            modes |= option.modes
        return Recipe(settings, modes)

    def on(self, model: Model) -> Model:
        """The model in the recipe's modes; itself where it has none."""
        return in_modes(model, **self.modes) if self.modes else model


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe of the best stack from a file of `AccelerationPlan.save`.

    Raises:
        Damaged: it is missing, or no such file.
    """
    try:
        kept = read_json(path)
        said = {k: [parse(p) for p in v] if isinstance(v, list) else v if k == "steps" else parse(v)
                for k, v in kept["recipe"].items()}  # fmt: skip
        return Recipe(said, {part: Mode(**mode) for part, mode in kept.get("modes", {}).items()})
    except (KeyError, TypeError) as error:
        raise Damaged(f"{path}: not a plan ({error}); write it again with `suffuse plan`") from error


@dataclass(frozen=True)
class AccelerationPlan:
    """What was measured, and which stack is best.

    Args:
        model: name of the model.
        budget: largest share of the baseline's multiplications.
        tolerance: largest error over the baseline's.
        settings: of the baseline.
        stacks: all that were measured, the baseline first.
    """

    model: str
    budget: float
    tolerance: float
    settings: Mapping[str, Any]
    stacks: tuple[Stack, ...]

    @property
    def front(self) -> list[Stack]:
        """Stacks that no other beats in time and error at once, the slowest first."""
        return sorted((a for a in self.stacks if not any(b.beats(a) for b in self.stacks)), key=lambda s: -s.time.mean)

    @property
    def best(self) -> Stack | None:
        """The fastest stack within the budget whose error is the least as far as the prompts tell: whose interval
        reaches down to the least mean. None where none keeps the tolerance."""
        inside = [s for s in self.stacks if s.macs <= self.budget and s.error.mean <= self.tolerance]
        least = min((s.error.mean for s in inside), default=0.0)
        return min((s for s in inside if s.error.interval[0] <= least), key=lambda s: s.time.mean, default=None)

    def recipe(self, stack: Stack | None = None) -> Recipe:
        """How a stack is run; by default the best.

        Raises:
            Refused: no stack keeps budget and tolerance.
        """
        stack = stack or self.best
        if stack is None:
            raise Refused(
                f"budget={self.budget:g}: no stack of those tried keeps the error within {self.tolerance:g} of the "
                "baseline's; allow more work, or more error"
            )
        return Recipe.of(self.settings, stack.options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the recipe of the best stack and the table as JSON; `load_recipe` reads the recipe back."""
        best = self.recipe()
        said = {k: _said(v) for k, v in best.settings.items()}
        modes = {part: asdict(mode) for part, mode in best.modes.items()}
        plan = {"model": self.model, "recipe": said, "modes": modes, "budget": self.budget, "stacks": self.table()}
        return write_json(path, plan)

    def table(self) -> list[dict[str, Any]]:
        """Rows for people and files."""
        front, best = self.front, self.best
        return [
            {
                "stack": str(s), "MACs": round(s.macs, 4), "evaluations": s.nfe, "time": str(s.time),
                "error / baseline": str(s.error), "front": s in front, "best": s is best,
            }
            for s in self.stacks
        ]  # fmt: skip


def _said(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [unparse(v) for v in value]
    return value if isinstance(value, (int, float, str)) else str(value) if isinstance(value, Mode) else unparse(value)
