"""The bundled models: what there is, and whether every file is as it was built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from suffuse.core.errors import BadInput, Damaged, nearest
from suffuse.core.files import read_json, sha256
from suffuse.core.registry import ROOT

from .output import AsJson, show

app = typer.Typer(help="List and verify the bundled models.", no_args_is_help=True)

MODELS = ROOT / "zoo" / "models"
CARD = "card.json"


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the bundled models with their size and what was measured of them."""
    rows = [
        {
            "name": name,
            "summary": card["summary"],
            "megabytes": round(sum((MODELS / name / file).stat().st_size for file in _files(name)) / 1e6, 2),
            "measured": [f"{figure} {value}" for figure, value in card.get("measured", {}).items()],
        }
        for name, card in _cards()
    ]
    show(rows, as_json=as_json)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Models; by default all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file of the bundled models with the hash in its card; exit 1 where one differs."""
    cards = dict(_cards())
    for name in names or ():
        if name not in cards:
            raise BadInput(f"name: there is no bundled model {name!r}; {nearest(name, cards)}")
    rows = [row for name in names or cards for row in _verified(name, cards[name])]
    show(rows, as_json=as_json)
    if any(row["state"] != "as built" for row in rows):
        raise typer.Exit(1)


def _cards() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in sorted(MODELS.glob(f"*/{CARD}")):
        card = read_json(path)
        if not isinstance(card, dict) or not {"summary", "files"} <= set(card):
            raise Damaged(f"{path.parent.name}/{CARD} has no summary or no files; build the model again")
        yield path.parent.name, card


def _files(name: str) -> list[str]:
    folder = MODELS / name
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != CARD)


def _verified(name: str, card: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    found = _files(name)
    for file in sorted({*card["files"], *found}):
        if file not in found:
            state = "missing"
        elif file not in card["files"]:
            state = "not in the card"
        else:
            state = "as built" if sha256(MODELS / name / file) == card["files"][file] else "altered"
        yield {"model": name, "file": file, "state": state}
