"""The card of a bundled model: what it is, how it was made, what was measured of it, and the hash of every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ... import load
from ...core.files import read_json, sha256, write_json
from ...evaluation import Pictures, ReaderAccuracy, evaluate
from ...world import frozen
from .building import Figure, Figures


def measure(
    folder: str | Path,
    most: int | None = None,
    *,
    steps: int = 25,
    guidance: float = 3.0,
    splits: Sequence[str] = ("validation", "held-out"),
) -> dict[str, Figure]:
    """What share of the prompts of the frozen splits a text-to-image pipeline draws right, with Wilson's intervals.

    Args:
        folder: of the model.
        most: prompts of each split; default all.
        steps, guidance: of the runs, which have seed 0 and the model's own sampler.
        splits: of the world.
    """
    model = load(folder)
    found: dict[str, Figure] = {}
    for split in splits:
        captions = list(frozen(split)[1])[:most]
        parts = []
        for start in range(0, len(captions), 64):
            chosen = captions[start : start + 64]
            samples = range(start, start + len(chosen))
            made = model.generate([str(c) for c in chosen], steps=steps, guidance=guidance, seed=0, samples=samples)
            with torch.no_grad():
                parts.append(Pictures(model.decode(made.latents), chosen))
        figures = evaluate(parts, [ReaderAccuracy()]).figures
        found |= {f"{split}, {name}": Figure.share(share) for name, share in figures.items()}
    return found


def write_card(
    folder: str | Path,
    *,
    summary: str,
    defaults: Mapping[str, Any],
    recipe: str,
    training: Mapping[str, Any],
    protocol: str,
    measured: Figures,
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
    for path in folder.rglob("config.json"):
        config = read_json(path)
        if config.pop("_name_or_path", None):  # where a part lay when it was trained
            write_json(path, config)
    files = {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    files.pop("card.json", None)
    card = {
        "summary": summary,
        "defaults": dict(defaults),
        "recipe": recipe,
        "training": dict(training),
        "protocol": protocol,
        "measured": {name: str(figure) for name, figure in measured.items()},
        "files": files,
    }
    write_json(folder / "card.json", card)
