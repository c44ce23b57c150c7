"""BAC: every block of a transformer on a schedule of its own, made from recorded runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import EMPTY, Denoiser
from ..core.engine import grid_of, place_of
from ..core.errors import BadInput, Refused
from ..core.grid import Spacing
from ..core.plugin import Setting
from ..core.registry import method
from ..core.sampler import Sampler
from ..core.site import Site, Sites
from .policy import CacheTable
from .probe import Similarity, similarity_probe
from .update_steps import update_steps


@method(paper="bac", tags=("saves depth",))
@dataclass(frozen=True)
class BAC(CacheTable):
    """Block-wise adaptive caching: attention and feed-forward layers each compute at steps of their own; between them
    what they add to the stream is added again.

    Each layer's M steps maximise sum_i sum_k S[i, k] over updates i and the steps k until the next, S the cosine of
    its outputs at two steps, exactly (`update_steps`). Then the bubbling union: those layers whose output changes most
    (mean |f_i - f_j|) compute also wherever a feed-forward layer behind them does, so that no fresh layer is fed by the
    stalest. All compute at the last step, as in the official code.

    Args:
        table: (layer, the steps at which it computes) for each; layers that are not named compute at every step.
        made_for: the model, process and times that it was found for.

    Raises:
        BadInput: steps beyond the run. Refused: another model, process or other times, or a network without a layer.

    Example:
        >>> policy = BAC.fit(**place, updates=8, sampler=DDIM(), steps=25)
        >>> save_method(policy, "drawer.safetensors")

    Reference: Ji et al., Block-wise Adaptive Caching for Accelerating Diffusion Policy, 2506.13456.

    Differs from the paper: any transformer of any denoiser, and runs of any length; gates and norms around a layer stay
    fresh.
    """

    table: tuple[tuple[str, tuple[int, ...]], ...]
    made_for: Setting

    def __post_init__(self) -> None:
        n = len(self.made_for.times) - 1
        if beyond := [(name, i) for name, steps in self.table for i in steps if not 0 <= i < n]:
            raise BadInput(f"BAC: {beyond[0][0]} is to compute at step {beyond[0][1]} of {n}; steps count from 0")

    def neutral(self) -> BAC:
        """Every layer computes at every step."""
        return replace(self, table=())

    def bind(self, setting: Setting) -> BAC:
        setting.require(self.made_for, ("model", "process", "times"), "BAC")
        return self

    def sites(self, net: Sites) -> list[Site]:
        found = {s.name: s for s in branches(net)}
        if lost := [name for name, _ in self.table if name not in found]:
            raise Refused(f"BAC: this network has no layer {lost[0]}; use the schedule on its own model")
        return [found[name] for name, _ in self.table]

    def steps(self, site: Site, n: int) -> frozenset[int]:
        return frozenset(dict(self.table)[site.name])

    @classmethod
    def fit(
        cls,
        denoiser: Denoiser,
        x: Tensor | Sequence[int],
        *,
        updates: int,
        sampler: Sampler,
        steps: int,
        volatile: int = 5,
        spacing: Spacing | None = None,
        cond: Cond = EMPTY,
        setting: Setting | None = None,
        **run: Any,
    ) -> BAC:
        """Schedules from recorded runs without a cache.

        Args:
            denoiser, x, cond, sampler, spacing, run: as for `similarity_probe`; some tens of samples.
            updates: M, steps at which a layer computes, the first included, before the union and the last step.
            steps: of the runs.
            volatile: layers that the union extends; the paper has 5 in simulation and 3 on its robot; 0 for none.
            setting: of the loaded model, so that other models are refused.

        Raises:
            BadInput: more updates than steps. Refused: a denoiser without transformer layers.
        """
        if denoiser.sites is None or not (layers := branches(denoiser.sites)):
            raise Refused("BAC.fit: this denoiser has no attention or feed-forward layers; use one with transformers")
        grid = grid_of(denoiser.process.given(cond), sampler, spacing, steps, x)
        place = replace(place_of(denoiser, grid, sampler, None, setting), sampler="", guidance="")
        found = similarity_probe(
            denoiser, x, [s.name for s in layers], sampler=sampler, grid=grid, cond=cond, setting=setting, **run
        )
        best = {s.name: update_steps(found[s.name].cosine, updates) | {steps - 1} for s in layers}
        table = bubbling_union(best, found, volatile, {s.name for s in layers if s.role == "feedforward"})
        return cls(tuple((name, tuple(sorted(at))) for name, at in table.items()), place)


def branches(net: Sites) -> list[Site]:
    """Attention and feed-forward layers of transformers, in the order of execution: what is added to a stream."""
    units = {s.module for s in net.units if s.role == "transformer"}  # attention that adds its input itself
    return [s for s in net if (s.kind == "attention" and s.module not in units) or s.role == "feedforward"]


def bubbling_union(
    table: Mapping[str, frozenset[int]], found: Mapping[str, Similarity], volatile: int, feedforward: Collection[str]
) -> dict[str, frozenset[int]]:
    """The table in which the most volatile layers compute also where any feed-forward layer behind them does.

    Args:
        table: of all layers, in the order of execution.
        found: their similarities; volatile is what has the largest mean L1 distance between steps.
        volatile: how many layers.
        feedforward: which of the layers are.
    """
    names = list(table)
    worst = sorted(names, key=lambda name: float(found[name].l1.mean()), reverse=True)[:volatile]

    def extended(name: str) -> frozenset[int]:
        behind = names[names.index(name) + 1 :]
        return table[name].union(*(table[other] for other in behind if other in feedforward))

    return {name: extended(name) if name in worst else table[name] for name in names}
