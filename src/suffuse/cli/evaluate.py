"""Measuring what methods make, all on one set of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffuse.core.errors import BadInput

from .output import AsJson, show, show_json
from .plugins import guidance_of, plugin
from .threads import Threads, limit

if TYPE_CHECKING:
    from suffuse.editing.edit_case import EditCase
    from suffuse.editing.survey import Row

app = typer.Typer(help="Measure methods against each other on a frozen set of cases.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def editing(
    model: Annotated[str, typer.Option(help="Bundled name, folder, .safetensors file or hub id.")] = "shapes",
    cases: Annotated[
        Path | None, typer.Option(help="Folder of PIE-Bench or TEdBench; default edits of the world.")
    ] = None,
    number: Annotated[
        int | None, typer.Option("-n", min=1, help="Edits of each task, default 1; of a folder, default all.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Such as replace or background; may be given again. Default all seven.")
    ] = None,
    inversion: Annotated[
        list[str] | None, typer.Option(help="Expression; may be given again. Default all at their defaults.")
    ] = None,
    editor: Annotated[
        list[str] | None, typer.Option(help="Expression; may be given again. Default all at their defaults.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of every inversion and edit.")] = 20,
    guidance: Annotated[str | None, typer.Option(help="Scale or expression; by default the model's.")] = None,
    sampler: Annotated[str, typer.Option(help="Expression.")] = "DDIM()",
    photographs: Annotated[
        bool, typer.Option("--photographs", help="Reconstruct scikit-image's photographs as well.")
    ] = False,
    lpips: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Weights of LPIPS: its backbone's file, and its own.")
    ] = None,
    dino: Annotated[Path | None, typer.Option(help="Folder of a DINO ViT, for the structure distance.")] = None,
    clip: Annotated[Path | None, typer.Option(help="Folder of a CLIP model, for the similarity to the target.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the leaderboard.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="HTML file for the leaderboard with its pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the cases and of every run.")] = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Every inversion with every editor on one set of edits: of the world, where truth is known, or of a folder.

    Pairs that do not go together are listed with the reason.
    """
    limit(threads)
    from suffuse import load
    from suffuse.editing import leaderboard
    from suffuse.editing import photographs as photos
    from suffuse.editing.edit_judge import ReaderJudge
    from suffuse.editing.survey import Known, Survey, editors, inverters
    from suffuse.evaluation.clip import CLIPScore, DirectionalCLIP
    from suffuse.evaluation.image import PSNR, SSIM
    from suffuse.evaluation.lpips import LPIPS
    from suffuse.evaluation.structure import DINOKeys, ReaderPatches, StructureDistance

    learned = [LPIPS(*map(str, lpips))] if lpips else []
    loaded = load(model)
    survey = Survey(
        loaded,
        _cases(cases, number, task, seed, loaded.defaults.size),
        steps=steps,
        guidance=guidance_of(guidance),
        sampler=plugin(sampler),
        seed=seed,
        kept=[PSNR("outside"), SSIM("outside"), *learned],
        text=[CLIPScore(str(clip)), DirectionalCLIP(str(clip))] if clip else [],
        structure=StructureDistance(DINOKeys(str(dino)) if dino else ReaderPatches()),
        marks=None if cases else ReaderJudge(),
    )
    inversions = Known(tuple(map(plugin, inversion)), {}) if inversion else inverters()
    chosen = Known(tuple(map(plugin, editor)), {}) if editor else editors()
    rows = survey.rows(inversions, chosen, (lambda row: None) if as_json else _say)
    found: list[Mapping[str, Any]] = []
    if photographs:
        found = photos.reconstructions(
            survey.model, photos.photographs(survey.model.defaults.size), inversions.made,
            metrics=[PSNR(), SSIM(), *learned], steps=steps, sampler=survey.sampler, seed=seed,
        )  # fmt: skip
    board = leaderboard.record(survey, rows, found)
    if output is not None:
        leaderboard.save(board, output)
    if sheet is not None:
        leaderboard.sheet(survey, rows, board, sheet)
    if as_json:
        show_json(board)
        return
    show(_lines(board["rows"]), title=f"{board['model']}, {len(survey.cases)} edits, {steps} steps")
    if found:
        show(_lines(found), title="photographs, reconstructed")


def _cases(
    folder: Path | None, number: int | None, task: list[str] | None, seed: int, size: tuple[int, int]
) -> Sequence[EditCase]:
    """Edits of the world, or the first of a folder, at the model's own size."""
    from suffuse.editing import EditEval, PIEBench, TEdBench
    from suffuse.editing.edit_eval import TASKS

    if folder is None:
        return EditEval(number or 1, tuple(task or TASKS), seed=seed)[:]
    if (folder / "input_list.json").exists():
        if task:
            raise BadInput(f"task={task}: TEdBench has no tasks; leave it out")
        found: Sequence[EditCase] = TEdBench(str(folder))
    else:
        found = PIEBench(str(folder), tuple(task or ()))
    return [case.resized(size) for case in found[:number]]


def _say(row: Row) -> None:
    figure = next(iter(row.figures.items()), None)
    told = row.refused or (figure and f"{figure[0]} {figure[1]}")
    print(f"{row.inversion or '-'} with {row.editor or '-'}: {told}", flush=True)


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the leaderboard as cells; a refused one has its reason and no figures."""
    names = dict.fromkeys(name for row in rows for name in row["figures"])
    lines = []
    for row in rows:
        figures = {name: row["figures"].get(name) for name in names}
        cells = {name: f and "{:.3g} [{:.3g}, {:.3g}]".format(f["mean"], *f["interval"]) for name, f in figures.items()}
        plain = {k: v for k, v in row.items() if k not in ("figures", "score by task", "refused")}
        lines.append({**plain, **cells, "refused": row["refused"]})
    return lines
