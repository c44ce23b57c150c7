"""Evidence: what a claim found, kept in evidence/KEY.json with all that is needed to judge and to repeat it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suffuse.core.bibliography import title
from suffuse.core.environment import CHECKOUT, commit, in_checkout, processor, versions
from suffuse.core.errors import Damaged
from suffuse.core.files import read_json, write_json
from suffuse.core.registry import ROOT
from suffuse.evaluation.statistics import Estimate

from .claim import Band, Outcome


def folder() -> Path:
    """Where evidence is kept: in the repository, or in the package of an installed copy."""
    return CHECKOUT / "evidence" if in_checkout() else ROOT / "evidence"


def record(outcome: Outcome) -> dict[str, Any]:
    """What is kept of an outcome, as plain JSON values."""
    claim, table = outcome.claim, outcome.table
    return {
        "paper": claim.paper,
        "title": title(claim.paper),
        "claim": claim.text,
        "passed": outcome.passed,
        "figures": {name: _figure(value, claim.expect.get(name)) for name, value in table.figures.items()},
        "rows": [{column: _plain(cell) for column, cell in row.items()} for row in table.rows],
        "seed": outcome.seed,
        "seconds": round(outcome.seconds, 1),
        "budget": claim.budget,
        "versions": dict(versions()),
        "machine": dict(processor()),
        "commit": commit(),
    }


def write(outcome: Outcome, into: Path | None = None) -> Path:
    """Write the evidence of an outcome, whole or not at all; an installed copy writes to `evidence` in this folder."""
    into = into or (folder() if in_checkout() else Path("evidence"))
    return write_json(into / f"{outcome.claim.paper}.json", record(outcome))


def read(paper: str, at: Path | None = None) -> Mapping[str, Any] | None:
    """The evidence of a paper, or None where there is none yet.

    Raises:
        Damaged: the file is there and is not evidence of this paper.
    """
    path = (at or folder()) / f"{paper}.json"
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("paper") != paper or not isinstance(found.get("passed"), bool):
        raise Damaged(f"{path} is not evidence of {paper!r}; write it again with `suffuse reproduce {paper}`")
    return found


def expected(band: Band) -> dict[str, float]:
    """A band as it stands in evidence."""
    ends = {"at_least": band.low, "at_most": band.high}
    return {name: end for name, end in ends.items() if math.isfinite(end)}


def _figure(value: Estimate | float, band: Band | None) -> dict[str, Any]:
    plain = _plain(value) if isinstance(value, Estimate) else {"mean": _plain(value)}
    if band is None:
        return plain
    return {**plain, "expected": expected(band), "passed": band.holds(value), "firm": band.holds_firmly(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {"mean": _plain(value.mean), "interval": [_plain(end) for end in value.interval], "n": value.n}
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    # JSON has no NaN and no infinity; seven digits are more than any figure here carries.
    return float(f"{value:.7g}") if math.isfinite(value) else str(value)
