"""Feature inheritance: chosen blocks, layers and units keep their last output at some steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

from torch import Tensor

from ..core.call import Call
from ..core.cond import Cond
from ..core.denoiser import EMPTY, Denoiser
from ..core.engine import sample
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.registry import method
from ..core.site import Site, Sites
from ..core.value import flat
from .policy import CacheTable

Segments: TypeAlias = tuple[tuple[float, int], ...]
"""(share of the run at which it ends, compute every so many steps) of each segment; the first of its steps computes."""


def uniform(every: int) -> Segments:
    """Every so many steps, from the first to the last."""
    return ((1.0, every),)


def dense_at_start(share: float, every: int) -> Segments:
    """All steps of the first share of the run, and then every so many."""
    return ((share, 1), (1.0, every))


def dense_at_end(share: float, every: int) -> Segments:
    """Every so many steps, and all of the last share of the run."""
    return ((1.0 - share, every), (1.0, 1))


@method(paper="a-sdm-inheritance", tags=("saves depth",))
@dataclass(frozen=True)
class FeatureInheritance(CacheTable):
    """Chosen parts of a network are not computed at some steps, and inherit what they returned at the last that did.

    Parts are of three levels, which may be mixed: blocks (resolution levels of a UNet, layers of a transformer), layers
    (its resnets and transformers) and units (attention, feed-forward). Several of these patches in one run have
    different steps for different parts.

    Args:
        inherited: names of parts ("mid_block"), or roles for all parts of a kind: "self", "cross", "joint",
            "feedforward", "resnet", "transformer", "down", "mid", "up".
        segments: when they compute: `uniform`, `dense_at_start`, `dense_at_end`, or any (end as a share of the run,
            every so many steps) in order.

    Raises:
        BadInput: segments out of order. Refused: a network without any of these parts.

    Example:
        >>> model.generate("a red circle", patches=[FeatureInheritance(("mid_block", "cross"), dense_at_start(0.2, 3))])

    Reference: Zhang et al., A-SDM: Accelerating Stable Diffusion through Model Assembly and Feature Inheritance
    Strategies, 2406.00210.

    Differs from the paper: layers of transformers inherit what they add, not what they return.
    """

    inherited: tuple[str, ...] = ("self", "cross", "joint", "feedforward")
    segments: Segments = ((1.0, 2),)

    def __post_init__(self) -> None:
        ends = [end for end, _ in self.segments]
        if not self.inherited or ends != sorted(ends) or ends[-1:] != [1.0] or min(k for _, k in self.segments) < 1:
            raise BadInput(
                f"FeatureInheritance({self.inherited}, segments={self.segments}): name parts, and give segments with "
                "rising ends up to 1.0 and whole numbers of steps"
            )

    def neutral(self) -> FeatureInheritance:
        """All parts compute at every step."""
        return replace(self, segments=uniform(1))

    def sites(self, net: Sites) -> Sequence[Site]:
        found = [s for s in parts(net) if s.name in self.inherited or s.role in self.inherited]
        if not found:
            raise Refused(f"{self}: this network has no such part; see the names and roles in denoiser.sites")
        return found

    def steps(self, site: Site, n: int) -> frozenset[int]:
        found, start = set[int](), 0
        for end, every in self.segments:
            found.update(range(start, stop := round(end * n), every))
            start = stop
        return frozenset(found)

    @classmethod
    def fit(
        cls,
        denoiser: Denoiser,
        x: Tensor | Sequence[int],
        *,
        macs: float,
        segments: Segments = ((1.0, 2),),
        levels: Sequence[str] = ("block", "layer", "unit"),
        **run: Any,
    ) -> Self:
        """The parts with the least error for what they save, as many as bring a run down to `macs`; a part takes the
        place of those inside of it.

        Args:
            denoiser, x, levels, run: as for `sensitivity_table`.
            macs: share of the multiplications of the full run, 0 to 1.
            segments: of the result.

        Raises:
            BadInput: these segments do not save so much.
        """
        chosen: list[Sensitivity] = []
        table = sensitivity_table(denoiser, x, segments=segments, levels=levels, **run)
        for entry in sorted(table, key=lambda e: e.error / max(e.saved, 1e-12)):
            if 1.0 - sum(e.saved for e in chosen) <= macs:
                break
            if not any(_inside(entry.part, e.part) for e in chosen):
                chosen = [e for e in chosen if not _inside(e.part, entry.part)] + [entry]
        if (least := 1.0 - sum(e.saved for e in chosen)) > macs:
            raise BadInput(f"macs={macs}: with segments={segments} the least is {least:.2f}; compute at fewer steps")
        return cls(tuple(e.part for e in chosen), segments)


@dataclass(frozen=True)
class Sensitivity:
    """What it does that one part alone inherits.

    Attributes:
        part, level: its name, and "block", "layer" or "unit".
        error: mean |x - x_full| / |x_full| of the final states.
        saved: share of the run's multiplications.
    """

    part: str
    level: str
    error: float
    saved: float


def sensitivity_table(
    denoiser: Denoiser,
    x: Tensor | Sequence[int],
    *,
    segments: Segments = ((1.0, 2),),
    levels: Sequence[str] = ("block", "layer", "unit"),
    steps: int,
    cond: Cond = EMPTY,
    **run: Any,
) -> list[Sensitivity]:
    """One run for each part of a network, in which it alone inherits; for choosing what to inherit.

    Args:
        denoiser, x, steps, cond, run: as for `sample`; a few samples are enough.
        segments: when the part computes.
        levels: of the parts to try.
    """
    if denoiser.sites is None:
        raise Refused("sensitivity_table: this denoiser has no network; give a loaded model's")
    full = flat(sample(denoiser, x, steps=steps, cond=cond, **run).x)
    costs = _Costs()
    sample(denoiser, x, steps=1, cond=cond, **{**run, "patches": (*run.get("patches", ()), costs)})
    table = []
    for site in parts(denoiser.sites):
        if (level := level_of(site)) in levels and costs.of.get(site.name):
            policy = FeatureInheritance((site.name,), segments)
            patches = [*run.get("patches", ()), policy]
            out = flat(sample(denoiser, x, steps=steps, cond=cond, **{**run, "patches": patches}).x)
            error = ((out - full).norm(dim=1) / full.norm(dim=1)).mean().item()
            share = 1.0 - len(policy.steps(site, steps)) / steps
            table.append(Sensitivity(site.name, level, error, share * costs.of[site.name] / costs.of[""]))
    return table


def parts(net: Sites) -> list[Site]:
    """Blocks, layers and units that may inherit, in the order of execution."""
    found = {s.module: s for s in net if level_of(s)}  # attention that is a layer by itself counts as a unit
    return list(found.values())


def level_of(site: Site) -> str:
    """ "block", "layer", "unit", or "" for what is none of them."""
    if site.kind == "block":
        return "block"
    if site.kind == "attention" or site.role == "feedforward":
        return "unit"
    return "layer" if site.kind == "unit" and site.role in ("resnet", "transformer") else ""


def _inside(part: str, whole: str) -> bool:
    return part.startswith(f"{whole}.")


@dataclass(frozen=True, eq=False)
class _Costs(Patch):
    """Multiplications of each part of a network and, under "", of all of it."""

    of: dict[str, int] = field(default_factory=dict)

    def sites(self, net: Sites) -> list[Site]:
        return [net.root, *parts(net)]

    def around(self, call: Call) -> Any:
        from ..evaluation.operations import Operations

        with Operations() as counter:
            out = call()
        self.of[call.site.name] = self.of.get(call.site.name, 0) + counter.total
        return out
