"""What a survey found, as a JSON file and as one HTML page with its pictures in it."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.environment import versions
from ..core.expression import unparse
from ..core.files import atomic_write, write_json
from ..evaluation.report import Report
from ..images import to_pil
from .survey import Row, Survey

STYLE = (
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}"
    "td,th{padding:.3em .6em;text-align:left;border-bottom:1px solid #ccc}"
    "th{position:sticky;top:0;background:#fff}img{image-rendering:pixelated}.no{color:#777}"
)


def record(survey: Survey, rows: Sequence[Row], photographs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Everything as plain data, the best score first, where there is one; all but seconds and versions is the same when
    run again."""
    ranked = sorted(
        rows, key=lambda row: (bool(row.refused), -row.figures["score"].mean if "score" in row.figures else 0.0)
    )
    return {
        "model": survey.model.name,
        "fingerprint": survey.model.fingerprint,
        "cases": [{"name": c.name, "instruction": c.instruction, "target": c.target} for c in survey.cases],
        "steps": survey.steps,
        "guidance": survey.guidance if isinstance(survey.guidance, float | int | None) else unparse(survey.guidance),
        "sampler": unparse(survey.sampler),
        "seed": survey.seed,
        "rows": [_row(row) for row in ranked],
        "photographs": list(photographs),
        "versions": dict(versions()),
    }


def save(board: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the leaderboard as JSON."""
    return write_json(path, board)


def sheet(survey: Survey, rows: Sequence[Row], board: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a page that needs no other file: the leaderboard, and beside every pair its edit of the first case of each
    task."""
    shown = {case.kind: k for k, case in reversed(list(enumerate(survey.cases)))}
    places = [shown[kind] for kind in dict.fromkeys(case.kind for case in survey.cases)]
    pictures = {(row.inversion, row.editor): row.images for row in rows}
    names = list(dict.fromkeys(name for row in board["rows"] for name in row["figures"]))
    head = ["inversion", "editor", *names, "evaluations", "seconds", ", ".join(survey.cases[k].kind for k in places)]
    body = [
        ["before", *[""] * (len(head) - 2), _strip([survey.cases[k].image for k in places])],
        ["truth", *[""] * (len(head) - 2), _strip([t for k in places if (t := survey.cases[k].truth) is not None])],
    ]
    lines = [_line(cells) for cells in body]
    for row in board["rows"]:
        own = [html.escape(row[name]) for name in ("inversion", "editor")]
        if row["refused"]:
            reason = html.escape(row["refused"])
            lines.append(f'<tr class="no">{_cells(own)}<td colspan="{len(head) - 2}">{reason}</td></tr>')
            continue
        figures = [_figure(row["figures"].get(name)) for name in names]
        images = pictures[row["inversion"], row["editor"]]
        strip = "" if images is None else _strip([images[k] for k in places])
        lines.append(_line([*own, *figures, f"{row['evaluations']:g}", f"{row['seconds']:.3g}", strip]))
    told = "".join(f"<li>{html.escape(survey.cases[k].instruction)}</li>" for k in places)
    title = html.escape(f"Edits by {board['model']}, {len(survey.cases)} cases, {board['steps']} steps")
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><p>Means with 95 % intervals; the best score first.</p><ol>{told}</ol>"
        f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{''.join(lines)}</table></html>\n"
    )
    return atomic_write(path, page.encode())


def _row(row: Row) -> dict[str, Any]:
    return {
        "inversion": row.inversion,
        "editor": row.editor,
        "refused": row.refused,
        "figures": Report(row.figures).record(),
        "score by task": dict(row.tasks),
        "evaluations": row.evaluations,
        "seconds": row.seconds,
    }


def _figure(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["interval"]
    return f"{found['mean']:.3g} [{low:.3g}, {high:.3g}]"


def _strip(pictures: Sequence[Tensor]) -> str:
    """Pictures (3, H, W) side by side, in the page itself."""
    if not pictures:
        return ""
    file = io.BytesIO()
    to_pil(torch.cat(list(pictures), 2)[None])[0].save(file, "PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _line(cells: Sequence[str]) -> str:
    return f"<tr>{_cells(cells)}</tr>"


def _cells(cells: Sequence[str]) -> str:
    return "".join(f"<td>{cell}</td>" for cell in cells)
