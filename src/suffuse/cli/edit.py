"""Changing a picture that exists, by two prompts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .output import AsJson, show_json
from .plugins import guidance_of, plugin
from .progress import Bar


def edit(
    picture: Annotated[Path, typer.Argument(help="Picture to change.")],
    source: Annotated[str, typer.Option("--from", help="What it shows.")],
    target: Annotated[str, typer.Option("--to", help="What it is to show.")],
    model: Annotated[str, typer.Option(help="Bundled name, folder, .safetensors file or hub id.")] = "shapes",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG file; by default NAME-edit.png beside the picture.")
    ] = None,
    inversion: Annotated[
        str, typer.Option(help="How the picture is found in the model, such as 'NullText()' or 'SDEdit(0.5)'.")
    ] = "DirectInversion()",
    editor: Annotated[
        list[str] | None,
        typer.Option(
            "--editor",
            help="What keeps the rest, such as 'MasaCtrl()'; may be given again. Default PromptToPrompt() where the "
            "network has cross-attention, else MasaCtrl(), and what a mask or a drag asks for.",
        ),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Picture that is white in the region in question.")] = None,
    drag: Annotated[
        list[str] | None, typer.Option(help="x0,y0:x1,y1 in pixels: what is to move, and where; may be given again.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the inversion and of the edit.")] = 50,
    guidance: Annotated[str | None, typer.Option(help="Scale or expression; by default the model's.")] = None,
    sampler: Annotated[str, typer.Option(help="Expression.")] = "DDIM()",
    negative: Annotated[str | None, typer.Option(help="What to lead away from.")] = None,
    seed: Annotated[int, typer.Option(help="Seed; matters to inversions and samplers that draw noise.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Change a picture from what one prompt says to what another says, and keep the rest.

    Of a picture that suffuse made, the recipe is not used: the picture is inverted as any other.
    """
    from suffuse import load
    from suffuse.conditioning.prompts import read_prompt
    from suffuse.images import writable

    place = writable(output or picture.with_name(f"{picture.stem}-edit.png"))
    chosen = plugin(inversion), [plugin(e) for e in editor] if editor else None, plugin(sampler)
    words = [read_prompt(text) for text in (source, target)]
    loaded = load(model)
    started = time.perf_counter()
    with Bar(as_json) as bar:
        edits = loaded.edit(
            picture, *words, inversion=chosen[0], editor=chosen[1], sampler=chosen[2], steps=steps, seed=seed,
            mask=mask, points=[_drag(d) for d in drag] if drag else None, guidance=guidance_of(guidance),
            negative_prompt=read_prompt(negative) if negative else None, progress=bar.advance,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    (file,) = edits.save(place)
    spent = int(edits.decoded.nfe[0])
    if as_json:
        show_json({"file": str(file), "seconds": seconds, "evaluations": spent, "recipe": edits.recipes[0]})
        return
    print(f"{file}\n{seconds:.2f} s, {spent} network evaluations besides the inversion")


def _drag(text: str) -> list[float]:
    """[x0, y0, x1, y1] of "x0,y0:x1,y1"."""
    from suffuse.core.errors import BadInput

    try:
        start, end = text.split(":")
        (x0, y0), (x1, y1) = (map(float, place.split(",")) for place in (start, end))
    except ValueError:
        raise BadInput(f"--drag {text}: give x0,y0:x1,y1 in pixels, such as 20,30:40,30") from None
    return [x0, y0, x1, y1]
