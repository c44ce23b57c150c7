"""AutoDiffusion: time steps, and layers left out at each of them, found by evolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from ..core.call import Call
from ..core.cond import Cond
from ..core.denoiser import EMPTY, Denoiser
from ..core.engine import grid_of, place_of, sample
from ..core.errors import BadInput, Refused
from ..core.grid import Grid, Spacing
from ..core.patch import Patch
from ..core.plugin import Setting
from ..core.registry import method
from ..core.sampler import Sampler
from ..core.site import Site, Sites
from ..core.value import Value
from ..search import Evolution, Scores, score_new
from .schedule_space import Candidate, ScheduleSpace
from .skipping import layers_of, passed, skippable

STAGE = 5
"""Most rounds in which the times alone are searched, and rounds in which the share of skipped layers grows."""


@method(paper="autodiffusion", tags=("saves depth", "saves steps"))
@dataclass(frozen=True)
class AutoDiffusion(Spacing, Patch):
    """Time steps, and the residual layers that are left out at each, with the least Frechet distance.

    A value that is both a spacing and a patch; give it as both. `AutoDiffusion.search` finds one by evolution: first
    over the times, then over times and skipped layers; `save_method` keeps it.

    Args:
        skipped: for each step the names of the layers that return what enters them; only layers that keep the shape.
        made_for: the model and process that it was found for, and its times.

    Raises:
        Refused: another model or process, other times, or a network without these layers.

    Example:
        >>> policy = AutoDiffusion.search(model.denoiser, (500, 1, 8, 8), distance=distance, steps=4, sampler=DDIM(),
        ...                               cond=model.condition(prompts), setting=model.setting())
        >>> model.generate("3", sampler=DDIM(), spacing=policy, patches=[policy])

    Reference: Li et al., AutoDiffusion: Training-Free Optimization of Time Steps and Architectures for Automated
    Diffusion Model Acceleration, 2309.10438.

    Differs from the paper: layers are really mutated (the released code compares where it should assign); every
    candidate is new, so a crossover that takes a time twice is drawn again; mutations and crossovers that would cost
    more than is allowed skip further random layers; skipped layers are those measured to keep the shape of what enters.
    """

    skipped: tuple[tuple[str, ...], ...]
    made_for: Setting

    def __post_init__(self) -> None:
        if len(self.made_for.times) != len(self.skipped) + 1:
            raise BadInput(
                f"AutoDiffusion: layers for {len(self.skipped)} steps and {len(self.made_for.times)} times; give one "
                "time more than steps in made_for.times"
            )

    # as a spacing
    def grid(self, process: Any, n: int, shape: Sequence[int] = ()) -> Grid:
        Setting(process=str(process)).require(self.made_for, ("process",), "AutoDiffusion")
        return Grid(torch.tensor(self.made_for.times, dtype=torch.float64))

    # as a patch
    def bind(self, setting: Setting) -> AutoDiffusion:
        setting.require(self.made_for, ("model", "process", "times"), "AutoDiffusion")
        return self

    def sites(self, net: Sites) -> list[Site]:
        names = {name for step in self.skipped for name in step}
        found = [s for s in layers_of(net) if s.name in names]
        if lost := names - {s.name for s in found}:
            raise Refused(f"AutoDiffusion: this network has no layer {min(lost)}; use the policy on its own model")
        return found

    def around(self, call: Call) -> Any:
        if call.at is None or call.site.name not in self.skipped[call.at.i]:
            return call()
        return passed(call)

    @classmethod
    def search(
        cls,
        denoiser: Denoiser,
        x: Value | Sequence[int],
        *,
        distance: Callable[[Value], float],
        steps: int,
        sampler: Sampler,
        layers: float = 1.0,
        max_prune: float = 0.0,
        rounds: int = 10,
        evolution: Evolution = Evolution(),
        spacing: Spacing | None = None,
        cond: Cond = EMPTY,
        setting: Setting | None = None,
        seed: int = 0,
        batch: int = 64,
        report: Callable[[Scores[Candidate]], None] | None = None,
        **run: Any,
    ) -> AutoDiffusion:
        """Evolve policies; each is scored on the same noise.

        Round 1 scores the spacing's own times, random times and mutations of the spacing's (p = 0.1). Then times alone
        are searched for up to 5 rounds or until the best one stays, and after that times and skipped layers, of which
        the share allowed at one step grows to `max_prune` in 5 rounds. A candidate that skips layers may have more
        steps, as long as its layers are not more than all of `steps` steps times `layers`.

        Args:
            denoiser, x, cond, sampler, spacing, run: as for `sample`; 1000 samples in the paper.
            distance: Frechet distance of final states (n, ...) to the reference, or any other score to be small.
            steps: of the full network that a sample may cost.
            layers: share of all layers of those steps that may run, above 0, at most 1; below 1 it needs `max_prune`.
            max_prune: largest share of the network's layers that is skipped at one step, 0 to 1; 0 searches times only.
            rounds: of candidates, 10 to 20 in the paper.
            evolution: candidates in a round and where they come from.
            setting: of the loaded model, so that other models are refused.
            seed: of the evolution.
            batch: samples made at once.
            report: called with all scores after every round.

        Raises:
            BadInput: numbers that leave nothing to choose from. Refused: skipping layers of what has no network.
        """
        if rounds < (2 if max_prune else 1) or not 0.0 < layers <= 1.0 or not 1.0 - layers <= max_prune <= 1.0:
            raise BadInput(
                f"rounds={rounds}, layers={layers}, max_prune={max_prune}: give 0 < layers <= 1, max_prune from "
                "1 - layers to 1, and at least 2 rounds where layers are skipped"
            )
        grid = grid_of(denoiser.process.given(cond), sampler, spacing, steps, x)
        place = replace(place_of(denoiser, grid, sampler, None, setting), sampler="", guidance="")
        names, total = _names(denoiser, x, grid, cond) if max_prune else ([], 1)
        whole = ScheduleSpace(
            getattr(denoiser.process, "N", 1000), grid.times[-1].item(), total, len(names), 0.0, steps * total
        )

        def policy(candidate: Candidate) -> AutoDiffusion:
            skipped = tuple(tuple(names[k] for k in sorted(skip)) for _, skip in candidate)
            return cls(skipped, replace(place, times=whole.times(candidate)))

        def score(candidate: Candidate) -> float:
            found, ends = policy(candidate), []
            for rows in torch.arange(len(x) if isinstance(x, Tensor) else x[0]).split(batch):
                part = sample(
                    denoiser, x[rows] if isinstance(x, Tensor) else (len(rows), *x[1:]), sampler=sampler, spacing=found,
                    patches=[found] if names else [], cond=cond[rows] if cond.rows else cond, samples=rows.tolist(),
                    setting=setting, **run,
                )  # fmt: skip
                ends.append(part.x)
            return distance(torch.cat(ends))

        scores, chance = Scores(score), Random(seed)
        _first_round(scores, whole, grid, evolution.population, chance)
        best = scores.best()[0]
        share = 0.0
        for i in range(1, rounds):
            if report is not None:
                report(scores)
            if max_prune and (share or (i > 1 and best == scores.best()[0]) or i >= min(STAGE, rounds // 2)):
                least = 1.0 - layers
                share = min(max(share, least) + (max_prune - least) / STAGE, max_prune)
            best = scores.best()[0]
            budget = layers if share else 1.0
            evolution.round(replace(whole, share=share, budget=budget * whole.budget), scores, chance)
        if report is not None:
            report(scores)
        allowed = scores.best(1, replace(whole, budget=layers * whole.budget).holds)
        if not allowed:
            raise BadInput(
                f"layers={layers}: {len(names)} of {total} layers can be left out, and no candidate came down to that "
                "share; give a larger one"
            )
        return policy(allowed[0])


def _names(denoiser: Denoiser, x: Value | Sequence[int], grid: Grid, cond: Cond) -> tuple[list[str], int]:
    """The layers that may be skipped, and how many layers there are."""
    some = x[:1] if isinstance(x, Tensor) else torch.zeros(1, *x[1:])
    names = skippable(denoiser, some, grid.node(0), denoiser.prepare(cond[:1] if cond.rows else cond))
    assert denoiser.sites is not None  # else it would have been refused
    return names, len(layers_of(denoiser.sites))


def _first_round(scores: Scores[Candidate], space: ScheduleSpace, grid: Grid, population: int, chance: Random) -> None:
    """The grid's own times; random ones, half of the population; mutations of the grid's."""
    own = space.of(grid.times[:-1].tolist())
    scores(own)
    score_new(scores, lambda: space.random(chance), population // 2)
    score_new(scores, lambda: space.mutated(own, 0.1, chance), population - len(scores.known))
