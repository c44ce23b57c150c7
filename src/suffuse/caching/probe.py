"""How alike a site's outputs are at any two steps of a run; what tables of caches are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.call import Call
from ..core.cond import Cond
from ..core.denoiser import EMPTY, Denoiser
from ..core.engine import sample
from ..core.errors import BadInput
from ..core.memory import Row
from ..core.patch import Patch
from ..core.site import Site, Sites
from ..core.value import Value


@dataclass(frozen=True, eq=False)
class Similarity:
    """Between what a site returned at steps i and j, the mean over recorded rows; each (n, n) in float64.

    Attributes:
        cosine: <f_i, f_j> / (|f_i| |f_j|), -1 to 1.
        l1: mean absolute difference of f_i and f_j.
        l2: |f_i - f_j| / |f_i|; row i is the step that is told, column j the one that is put in its place.
    """

    cosine: Tensor
    l1: Tensor
    l2: Tensor

    @staticmethod
    def of(f: Tensor) -> Similarity:
        """Of features (rows, n, numbers)."""
        f = f.double()
        norm = f.norm(dim=2).clamp(min=1e-30)
        unit = f / norm[..., None]
        distance = torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist")
        return Similarity(
            (unit @ unit.mT).mean(0),
            (torch.cdist(f, f, p=1) / f.shape[2]).mean(0),
            (distance / norm[..., None]).mean(0),
        )


@dataclass(frozen=True, eq=False)
class Recorder(Patch):
    """Keeps what blocks, units and attention of these names return, row by row, at every step of a run.

    Args:
        names: of sites.
        kept: (name, step) -> row -> all that the site returned, as one vector.
    """

    names: Sequence[str]
    kept: dict[tuple[str, int], dict[Row, Tensor]] = field(default_factory=dict)

    def sites(self, net: Sites) -> list[Site]:
        found = {s.name: s for s in net if s.kind in ("block", "unit", "attention")}
        if lost := [name for name in self.names if name not in found]:
            raise BadInput(f"names: this network has no block, unit or attention {lost[0]!r}; see denoiser.sites")
        return [found[name] for name in self.names]

    def around(self, call: Call) -> Any:
        out = call()
        if call.at is not None:
            vectors = torch.cat([v.detach().flatten(1) for v in pytree.tree_leaves(out) if isinstance(v, Tensor)], 1)
            self.kept.setdefault((call.site.name, call.at.i), {}).update(zip(call.rows, vectors, strict=True))
        return out

    def features(self, name: str) -> Tensor:
        """(rows, steps, numbers) of the rows that were computed at every step."""
        by_step = [self.kept[key] for key in sorted(key for key in self.kept if key[0] == name)]
        rows = [row for row in by_step[0] if all(row in step for step in by_step)]
        if not rows:
            raise BadInput(
                f"{name}: no branch was computed at every step; record a run without windows or other caches"
            )
        return torch.stack([torch.stack([step[row] for step in by_step]) for row in rows])


def similarity_probe(
    denoiser: Denoiser,
    x: Tensor | Sequence[int],
    names: Sequence[str],
    *,
    cond: Cond = EMPTY,
    batch: int = 16,
    **run: Any,
) -> Mapping[str, Similarity]:
    """The similarity of sites between the steps of recorded runs.

    Args:
        denoiser, x, cond, run: as for `sample`; every row of every branch counts alike.
        names: of blocks, units or attention.
        batch: samples recorded at once; all their features are in memory together.

    Example:
        >>> found = similarity_probe(**place, names=["mid_block"], steps=50, sampler=DDIM())
        >>> found["mid_block"].cosine[0, 1]

    Raises:
        BadInput: a name that the network does not have.
    """
    parts: list[tuple[int, Mapping[str, Similarity]]] = []
    for rows in torch.arange(len(x) if isinstance(x, Tensor) else x[0]).split(batch):
        recorder = Recorder(names)
        some: Value | Sequence[int] = x[rows] if isinstance(x, Tensor) else (len(rows), *x[1:])
        patches = [*run.get("patches", ()), recorder]
        where = {"cond": cond[rows] if cond.rows else cond, "samples": rows.tolist()}
        sample(denoiser, some, **{**run, **where, "patches": patches})
        parts.append((len(rows), {name: Similarity.of(recorder.features(name)) for name in names}))

    def mean(name: str, kind: str) -> Tensor:
        return sum(n * getattr(part[name], kind) for n, part in parts) / sum(n for n, _ in parts)

    return {name: Similarity(mean(name, "cosine"), mean(name, "l1"), mean(name, "l2")) for name in names}
