"""The card of a bundled model: what it is, how it was made, what was measured of it, and the hash of every file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ... import load
from ...core.files import sha256, write_json
from ...core.metric import Estimate
from ...evaluation import Pictures, ReaderAccuracy, evaluate
from ...world import frozen


def measure(folder: str | Path, *, steps: int = 25, guidance: float = 3.0, split: str = "validation") -> dict[str, str]:
    """What share of the prompts of a frozen split a text-to-image pipeline draws right, with Wilson's intervals."""
    model = load(folder)
    captions = list(frozen(split)[1])
    parts = []
    for start in range(0, len(captions), 64):
        chosen = captions[start : start + 64]
        samples = range(start, start + len(chosen))
        made = model.generate([str(c) for c in chosen], steps=steps, guidance=guidance, seed=0, samples=samples)
        with torch.no_grad():
            parts.append(Pictures(model.decode(made.latents), chosen))
    return {f"{split}, {name}": shown(found) for name, found in evaluate(parts, [ReaderAccuracy()]).figures.items()}


def shown(share: Estimate) -> str:
    """A share as text: "96.1 % [93.0, 97.9], n = 205"."""
    low, high = share.interval
    return f"{100 * share.mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}], n = {share.n}"


def write_card(
    folder: str | Path,
    *,
    summary: str,
    defaults: Mapping[str, Any],
    recipe: str,
    training: Mapping[str, Any],
    protocol: str,
    measured: Mapping[str, str],
) -> None:
    """Write card.json beside the files of a model.

    Args:
        folder: of the model.
        summary: one line.
        defaults: steps, and the guidance as an expression, where the user gives none.
        recipe: what rebuilds it.
        training: steps, seconds and whatever else says what it took.
        protocol: how the figures were measured.
        measured: figures by name.
    """
    folder = Path(folder)
    files = {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    files.pop("card.json", None)
    card = {
        "summary": summary,
        "defaults": dict(defaults),
        "recipe": recipe,
        "training": dict(training),
        "protocol": protocol,
        "measured": dict(measured),
        "files": files,
    }
    write_json(folder / "card.json", card)
