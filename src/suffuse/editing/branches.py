"""Source and target branch of an edit in one batch: which row of a call is the source of which.

`cond.alt["pair"]["source"]` (B,) is the sample that each sample is an edit of; source samples name themselves. It is
data of the run and not of a patch, so it follows the rows through guidance, windows and subsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.call import Call
from ..core.cond import Cond
from ..core.errors import BadInput, Refused
from ..core.memory import Row, rows_of
from ..core.noise import Noise
from ..core.site import Site, Sites

PAIR, PLACE = "pair", "place"
"""Alternatives of the condition: what is the source of what, and what the user points at."""


@dataclass(frozen=True)
class PairNoise(Noise):
    """Picture k of an edit draws as sample ids[k], in its source branch and in its target branch.

    Args:
        inner: source of the noise.
        ids: identities of the pictures.
    """

    inner: Noise
    ids: tuple[int, ...]

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        return self.inner.draw(kind, like, [self.ids[k % len(self.ids)] for k in samples], key)


Pairs = tuple[list[int], list[int]]
"""Rows of targets, and for each the row of its source."""


def branches(source: Cond, target: Cond, rows: int) -> Cond:
    """The condition of `rows` source samples 0, 1, ... followed by one target sample for each."""
    if source.rows not in (None, rows) or target.rows not in (None, rows):
        raise BadInput(
            f"source has {source.rows} rows and target {target.rows} for {rows} pictures; give one row for each"
        )
    if not source.joins(target):
        raise BadInput(
            f"source and target: entries {list(source)} and {list(target)} do not make one batch; encode both prompts "
            "with the same conditioner"
        )
    own = torch.arange(rows).repeat(2)
    return Cond.cat([source, target]).with_alt(**{PAIR: Cond({"source": own})})


def place(cond: Cond, name: str, what: object) -> Tensor:
    """What the user points at: "mask" (B, 1, H, W), 1 in the region, or "points" (B, P, 4), x0, y0, x1, y1 of drags.

    Both are in pixels of the picture, whatever the grid of states is.
    """
    given = cond.alt.get(PLACE, Cond())
    if name not in given:
        raise BadInput(f"{what}: needs to know where; give {name} to `suffuse.editing.edit`")
    return given[name]


def match(rows: Sequence[Row], source: Sequence[int]) -> Pairs:
    """Targets among `rows`, and the rows of their sources on the same path."""
    where = {row: i for i, row in enumerate(rows)}
    targets = [i for i, (_, sample) in enumerate(rows) if source[i] != sample]
    lonely = [rows[i] for i in targets if (rows[i][0], source[i]) not in where]
    if lonely:
        path, sample = lonely[0]
        raise Refused(
            f"branch {path!r} is evaluated for the edit {sample} without its source; edit under a guidance that "
            "evaluates all samples of a branch together, such as CFG"
        )
    return targets, [where[rows[i][0], source[i]] for i in targets]


def pairs_at(samples: Sequence[int], cond: Cond, what: object) -> Pairs:
    """Targets and sources among the samples of a step."""
    return match(rows_of("", samples), _sources(cond, what))


def pairs_in(call: Call, what: object, *, null: bool = True) -> Pairs:
    """Targets and sources among the rows of a call; without `null`, those of the unconditional branch are left out."""
    key = ("pairs", call.rows, null)
    if key not in call.scratch:
        targets, sources = match(call.rows, _sources(call.cond, what))
        keep = [k for k, i in enumerate(targets) if null or not is_null(call.rows[i])]
        call.scratch[key] = [targets[k] for k in keep], [sources[k] for k in keep]
    return call.scratch[key]


def is_null(row: Row) -> bool:
    """True for rows of the unconditional branch of a guidance."""
    return row[0].rpartition("/")[2] == "null"


def carried(v: Tensor, pairs: Pairs, span: slice = slice(None)) -> Tensor:
    """`v` (B, heads, tokens, width) in which targets have the tokens `span` of their sources."""
    targets, sources = pairs
    v = v.clone()
    v[targets, :, span] = v[sources, :, span]
    return v


def _sources(cond: Cond, what: object) -> list[int]:
    if PAIR not in cond.alt:
        raise Refused(f"{what}: needs a source branch beside the target; run it through `suffuse.editing.edit`")
    return cond.alt[PAIR]["source"].tolist()


def self_attention(net: Sites, what: object) -> list[Site]:
    """Where image tokens attend to each other: self-attention, and joint attention with text."""
    found = [s for s in net.attention() if s.role in ("self", "joint")]
    if not found:
        raise Refused(f"{what}: this network has no self-attention; use a UNet with attention, or a transformer")
    return found
