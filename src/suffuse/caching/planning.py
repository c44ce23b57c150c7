"""Which ways of saving work go well together on a model: stacks of them, measured, and the best for a budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import BadInput, Damaged, Refused
from ..core.expression import parse, unparse
from ..core.files import read_json, write_json
from ..core.guidance import Guidance
from ..core.metric import Estimate
from ..core.patch import Patch
from ..core.registry import REQUIRED, all_methods, method

if TYPE_CHECKING:
    from ..core.model import Images, Model

SAVES = "saves "
"""How tags of methods that save work begin; what follows is the axis."""

AXES = ("steps", "guidance", "depth", "tokens", "width", "bits", "kernels", "devices")
"""What work can be saved on: the survey's taxonomy, from the run down to the machine."""

Error = Callable[["Images", Sequence[str]], Any]
"""How far each picture is from what it should be, (n,) numbers, from the pictures of these prompts."""


@dataclass(frozen=True)
class Option:
    """One way to save work on one axis.

    Args:
        axis: one of `AXES`.
        settings: what it changes of `Model.generate`: "sampler", "steps", "guidance", "patches".
    """

    axis: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{k} {_said(v)}" for k, v in self.settings.items())


@dataclass(frozen=True)
class Stack:
    """Options that run together, no two of them on one axis.

    Args:
        options: in the order of axes; none is the baseline.
        macs: multiplications, as a share of the baseline's.
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
        """Stacks that no other beats in multiplications and error at once, the dearest first."""
        return sorted((a for a in self.stacks if not any(_beats(b, a) for b in self.stacks)), key=lambda s: -s.macs)

    @property
    def best(self) -> Stack | None:
        """The stack of least error within the budget, or None where none keeps the tolerance."""
        inside = [s for s in self.stacks if s.macs <= self.budget and s.error.mean <= self.tolerance]
        return min(inside, key=lambda s: (s.error.mean, s.macs), default=None)

    def recipe(self, stack: Stack | None = None) -> dict[str, Any]:
        """Arguments of `Model.generate` that run a stack; by default the best.

        Raises:
            Refused: no stack keeps budget and tolerance.
        """
        stack = stack or self.best
        if stack is None:
            raise Refused(
                f"budget={self.budget:g}: no stack of those tried keeps the error within {self.tolerance:g} of the "
                "baseline's; allow more work, or more error"
            )
        return _settings(self.settings, stack.options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the recipe of the best stack and the table as JSON; `load_recipe` reads the recipe back."""
        said = {k: _said(v) for k, v in self.recipe().items()}
        return write_json(path, {"model": self.model, "recipe": said, "budget": self.budget, "stacks": self.table()})

    def table(self) -> list[dict[str, Any]]:
        """Rows for people and files."""
        front = self.front
        return [
            {
                "stack": str(s), "MACs": round(s.macs, 4), "evaluations": s.nfe, "time": str(s.time),
                "error / baseline": str(s.error), "front": s in front, "best": s is self.best,
            }
            for s in self.stacks
        ]  # fmt: skip


def load_recipe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Arguments of `Model.generate` from a file of `AccelerationPlan.save`.

    Raises:
        Damaged: it is missing, or no such file.
    """
    try:
        said = read_json(path)["recipe"]
        return {k: [parse(p) for p in v] if isinstance(v, list) else v if k == "steps" else parse(v)
                for k, v in said.items()}  # fmt: skip
    except (KeyError, TypeError) as error:
        raise Damaged(f"{path}: not a plan ({error}); write it again with `suffuse plan`") from error


def options_for(model: Model, steps: Sequence[int] = (20, 12, 8)) -> list[Option]:
    """What is registered as saving work and can be said by numbers alone, at its defaults, on this network.

    Args:
        model: the model.
        steps: numbers of steps to try of the best multistep solver.
    """
    from ..core.registry import resolve

    w = float(getattr(model.defaults.guidance, "w", 1.0))
    found = [Option("steps", {"sampler": resolve("UniPC").target(), "steps": n}) for n in steps]
    for known in all_methods():
        for axis in (tag.removeprefix(SAVES) for tag in known.tags if tag.startswith(SAVES)):
            if any(a.default is REQUIRED for a in known.arguments):
                continue  # fitted: it belongs to one model
            if issubclass(known.target, Guidance):
                own = any(a.name == "w" for a in known.arguments)  # else it acts around the model's own
                made = known.target(w=w) if own else known.target() | model.defaults.guidance
                found.append(Option(axis, {"guidance": made}))
            elif issubclass(known.target, Patch) and _acts(known.target(), model):
                found.append(Option(axis, {"patches": [known.target()]}))
    return found


@method(paper="efficient-survey", tags=("planning",))
def plan_acceleration(
    model: Model,
    prompts: Sequence[str],
    *,
    budget: float = 0.4,
    tolerance: float = 1.1,
    options: Sequence[Option] | None = None,
    error: Error | None = None,
    steps: int = 50,
    most: int = 6,
    rounds: int = 5,
    seed: int = 0,
    report: Callable[[Stack], None] | None = None,
) -> AccelerationPlan:
    """Search stacks of options for the least error within a budget of multiplications.

    The baseline and every option by itself are measured first; then, one after another, the stack of several axes that
    promises the least error within the budget, as if what was measured together did not interact with the rest.
    Interactions are so measured, not multiplied, and what two options do to each other is known when a third joins.

    Args:
        model: what is to run faster.
        prompts: what it is measured on; 30 or more give useful intervals.
        budget: largest share of the baseline's multiplications, above 0 and below 1.
        tolerance: largest mean error over the baseline's.
        options: by default `options_for(model)`.
        error: of each picture; by default the squared distance of its latents from those of the baseline in units of
            the baseline's own at four fifths of its steps.
        steps: of the baseline, with the model's sampler and guidance.
        most: stacks of several options that are measured, 1 or more.
        rounds: pairs of timed runs, 5 or more.
        seed: of the pictures, the same for every stack.
        report: called with each stack as it is measured.

    Example:
        >>> plan = plan_acceleration(model, prompts, budget=0.4)
        >>> model.generate("a red circle", **plan.recipe())

    Reference: Ma et al., Efficient Diffusion Models: A Comprehensive Survey from Principles to Practices, 2410.11795.
    """
    if not 0.0 < budget < 1.0 or most < 1:
        raise BadInput(f"budget={budget}, most={most}: give a share of the work between 0 and 1, and 1 stack or more")
    chosen = options_for(model) if options is None else list(options)
    if unknown := {o.axis for o in chosen} - set(AXES):
        raise BadInput(f"options: axis {min(unknown)!r} is none of {', '.join(AXES)}")
    base = {"sampler": model.defaults.sampler, "steps": steps, "guidance": model.defaults.guidance, "patches": []}
    bench = _Bench(model, list(prompts), base, error, rounds, seed)
    stacks: list[Stack] = []

    def measure(picked: tuple[Option, ...]) -> None:
        stacks.append(bench.measure(picked))
        if report is not None:
            report(stacks[-1])

    for picked in [(), *((option,) for option in chosen)]:
        measure(picked)
    for _ in range(most):
        if (promising := _promising(stacks, budget)) is None:
            break
        measure(promising)
    return AccelerationPlan(model.name, budget, tolerance, base, tuple(stacks))


def _promising(stacks: Sequence[Stack], budget: float) -> tuple[Option, ...] | None:
    """Options of two axes or more that were not measured together, should fit the budget, and err least."""
    alone = [s for s in stacks if len(s.options) == 1]
    axes = [[s.options for s in alone if s.options[0].axis == axis] for axis in AXES]
    every = [sum(some, ()) for some in product(*([(), *options] for options in axes))]
    measured = [s.options for s in stacks]

    def expected(picked: tuple[Option, ...]) -> tuple[float, float]:
        """Error over the baseline's, and multiplications: the worst that measured parts of it give with the rest."""
        ways = []
        for part in stacks:
            if all(o in picked for o in part.options):
                apart = [part, *(s for s in alone if s.options[0] in picked and s.options[0] not in part.options)]
                ways.append((sum(max(s.error.mean - 1.0, 0.0) for s in apart), prod(s.macs for s in apart)))
        return max(ways)

    fits = [picked for picked in every if picked not in measured and expected(picked)[1] <= budget]
    return min(fits, key=expected, default=None)


class _Bench:
    """Measures stacks on one set of prompts, against one baseline."""

    def __init__(
        self, model: Model, prompts: list[str], base: Mapping[str, Any], error: Error | None, rounds: int, seed: int
    ):
        self.model, self.prompts, self.base, self.rounds, self.seed = model, prompts, base, rounds, seed
        made = self._made(())
        self.error = error or _distance(made, self._made((Option("steps", {"steps": round(0.8 * base["steps"])}),)))
        self.macs = self._macs(())
        self.errors = np.asarray(self.error(made, prompts), float)

    def measure(self, picked: tuple[Option, ...]) -> Stack:
        from ..evaluation import statistics
        from ..evaluation.timing import paired

        made = self._made(picked)
        time = paired(lambda: self._made(picked, 2), lambda: self._made((), 2), rounds=self.rounds).ratio
        errors = np.asarray(self.error(made, self.prompts), float)
        share = statistics.ratio(errors, self.errors)
        return Stack(picked, self._macs(picked) / self.macs, float(made.nfe.float().mean()), time, share)

    def _made(self, picked: tuple[Option, ...], number: int | None = None) -> Images:
        return self.model.generate(self.prompts[:number], seed=self.seed, batch=32, **_settings(self.base, picked))

    def _macs(self, picked: tuple[Option, ...]) -> int:
        with FlopCounterMode(display=False) as counter:
            self._made(picked, 1)
        return counter.get_total_flops()


def _distance(full: Images, fewer: Images) -> Error:
    """Squared distance of latents from those of a full run, in units of that of a run with fewer steps."""
    unit = float((fewer.latents - full.latents).square().mean())

    def error(made: Images, prompts: Sequence[str]) -> Any:
        return 1.0 + (made.latents - full.latents).square().flatten(1).mean(1).cpu().numpy() / unit

    return error


def _settings(base: Mapping[str, Any], options: Iterable[Option]) -> dict[str, Any]:
    """Arguments of a stack; patches of several options run together, of everything else the last one holds."""
    found = dict(base)
    for option in options:
        patches = [*found["patches"], *option.settings.get("patches", ())]
        found |= {**option.settings, "patches": patches}
    return found


def _acts(patch: Patch, model: Model) -> bool:
    """Whether it does something here as it stands; what waits for training does not."""
    try:
        found = model.denoiser.sites
        return patch != patch.neutral() and found is not None and bool(patch.sites(found))
    except Refused:
        return False


def _beats(a: Stack, b: Stack) -> bool:
    """Whether a is at least as good in both respects and better in one."""
    return (a.macs <= b.macs and a.error.mean <= b.error.mean) and (a.macs, a.error.mean) != (b.macs, b.error.mean)


def _said(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [unparse(v) for v in value]
    return value if isinstance(value, (int, float, str)) else unparse(value)
