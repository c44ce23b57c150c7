"""Tables for people, the same rows as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def console() -> Console:
    """Where tables go: as wide as the terminal, and not cut at all in a file or a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 1000)


def show(rows: Sequence[Mapping[str, Any]], *, title: str = "", as_json: bool = False) -> None:
    """Print rows, each a mapping column -> cell, as a table or as a JSON list."""
    if as_json:
        show_json(list(rows))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in rows[0] if rows else ("nothing found",):
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        # Text, because a cell such as "0.5 [0.4, 0.6]" is not markup.
        table.add_row(*(Text(_cell(cell)) for cell in row.values()))
    if title:
        print(title)
    console().print(table)


def show_json(value: Any) -> None:
    """Print a value as JSON; what JSON does not know is printed as its text."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return str(value)
