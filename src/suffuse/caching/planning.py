"""Which ways of saving work go well together on a model: stacks of them, measured, and the best for a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import BadInput, Refused
from ..core.guidance import Guidance
from ..core.metric import Estimate
from ..core.patch import Patch
from ..core.registry import REQUIRED, all_methods, method, resolve
from ..core.tuned import Mode
from .stacks import AXES, AccelerationPlan, Option, Recipe, Stack

if TYPE_CHECKING:
    from ..core.model import Images, Model

SAVES = "saves "
"""How tags of methods that save work begin; what follows is the axis."""

NEAR = Mode(dtype="bfloat16", channels_last=True)
"""The mode of computation that is among the options."""

Error = Callable[["Images", Sequence[str]], Any]
"""How far each picture is from what it should be, (n,) numbers, from the pictures of these prompts."""


def options_for(model: Model, steps: Sequence[int] = (20, 12, 8)) -> list[Option]:
    """What is registered as saving work and can be said by numbers alone, at its defaults, on this network; and
    bfloat16, in which multiplications are as many but may take less time.

    Args:
        model: the model.
        steps: numbers of steps to try of the best multistep solver.
    """
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
    parts = ("mode", "decoder") if next(model.codec.parameters(), None) is not None else ("mode",)
    return [*found, Option("bits", modes=dict.fromkeys(parts, NEAR))]


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
    timed: int = 2,
    seed: int = 0,
    report: Callable[[Stack], None] | None = None,
) -> AccelerationPlan:
    """Search stacks of options for the fastest of least error within a budget of multiplications.

    Multiplications are what is counted and does not vary, so the budget is in them; time is measured as well, because
    some options (modes of computation, kernels) save it alone.

    The baseline and every option by itself are measured first; then, one after another, the stack of several axes that
    promises the least error within the budget, as if what was measured together did not interact with the rest.
    Interactions are so measured, not multiplied, and what two options do to each other is known when a third joins.

    Args:
        model: what is to run faster.
        prompts: what it is measured on; 30 or more give useful intervals.
        budget: largest share of the baseline's multiplications, above 0 and below 1.
        tolerance: largest mean error over the baseline's.
        options: by default `options_for(model)`.
        error: of each picture; by default 1 + d / 10, with d the squared distance of its latents from the baseline's
            in units of that of the baseline at half its steps: a tolerance of 1.1 allows what half the steps change.
        steps: of the baseline, 2 or more, with the model's sampler and guidance.
        most: stacks of several options that are measured, 1 or more.
        rounds: pairs of timed runs, 5 or more.
        timed: pictures of a timed run; a mode may save time in large batches only.
        seed: of the pictures, the same for every stack.
        report: called with each stack as it is measured.

    Example:
        >>> plan = plan_acceleration(model, prompts, budget=0.4)
        >>> recipe = plan.recipe()
        >>> recipe.on(model).generate("a red circle", **recipe.settings)

    Reference: Ma et al., Efficient Diffusion Models: A Comprehensive Survey from Principles to Practices, 2410.11795.
    """
    if not 0.0 < budget < 1.0 or most < 1:
        raise BadInput(f"budget={budget}, most={most}: give a share of the work between 0 and 1, and 1 stack or more")
    if steps < 2:
        raise BadInput(f"steps={steps}: a baseline of one step cannot be made shorter; give 2 or more")
    chosen = options_for(model) if options is None else list(options)
    if unknown := {o.axis for o in chosen} - set(AXES):
        raise BadInput(f"options: axis {min(unknown)!r} is none of {', '.join(AXES)}")
    base = {"sampler": model.defaults.sampler, "steps": steps, "guidance": model.defaults.guidance, "patches": []}
    bench = _Bench(model, list(prompts), base, error, rounds, timed, seed)
    stacks: list[Stack] = []

    def add(stack: Stack) -> None:
        stacks.append(stack)
        if report is not None:
            report(stack)

    add(bench.baseline)
    for option in chosen:
        add(bench.measure((option,)))
    for _ in range(most):
        if (promising := _promising(stacks, budget)) is None:
            break
        add(bench.measure(promising))
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
        self,
        model: Model,
        prompts: list[str],
        base: Mapping[str, Any],
        error: Error | None,
        rounds: int,
        timed: int,
        seed: int,
    ):
        from ..evaluation.operations import operations

        self.model, self.prompts, self.base, self.seed = model, prompts, base, seed
        self.rounds, self.timed = rounds, timed
        self.plain = self._run(())
        made = self.plain()
        half = Option("steps", {"steps": max(1, base["steps"] // 2)})
        self.error = error or _distance(made, self._run((half,))())
        self.macs = operations(lambda: self.plain(1))
        self.errors = np.asarray(self.error(made, prompts), float)
        one = Estimate(1.0, (1.0, 1.0), len(prompts))
        self.baseline = Stack((), 1.0, float(made.nfe.float().mean()), one, one)

    def measure(self, picked: tuple[Option, ...]) -> Stack:
        from ..evaluation import statistics
        from ..evaluation.operations import operations
        from ..evaluation.timing import paired

        run = self._run(picked)
        made = run()
        time = paired(lambda: run(self.timed), lambda: self.plain(self.timed), rounds=self.rounds).ratio
        share = statistics.ratio(np.asarray(self.error(made, self.prompts), float), self.errors)
        return Stack(picked, operations(lambda: run(1)) / self.macs, float(made.nfe.float().mean()), time, share)

    def _run(self, picked: tuple[Option, ...]) -> Callable[..., Images]:
        """What makes pictures with a stack: of the first so many prompts."""
        recipe = Recipe.of(self.base, picked)
        model = recipe.on(self.model)
        return lambda n=None: model.generate(self.prompts[:n], seed=self.seed, batch=32, **recipe.settings)


def _distance(full: Images, half: Images) -> Error:
    """1 + d / 10, d the squared distance of latents from those of a full run in units of that of half its steps."""
    unit = float((half.latents - full.latents).square().mean())

    def error(made: Images, prompts: Sequence[str]) -> Any:
        return 1.0 + 0.1 * (made.latents - full.latents).square().flatten(1).mean(1).cpu().numpy() / unit

    return error


def _acts(patch: Patch, model: Model) -> bool:
    """Whether it does something here as it stands; what waits for training does not."""
    try:
        found = model.denoiser.sites
        return patch != patch.neutral() and found is not None and bool(patch.sites(found))
    except Refused:
        return False
