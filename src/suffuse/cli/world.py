"""Pictures of the procedural world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import AsJson, show


def world(
    caption: Annotated[str, typer.Argument(help="What every scene is to show; left out, the scenes are random.")] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")] = Path("world.png"),
    number: Annotated[int, typer.Option("-n", min=1, max=1024, help="Number of scenes.")] = 16,
    resolution: Annotated[int, typer.Option(min=16, max=1024, help="Pixels on a side.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
    language: Annotated[str, typer.Option(help="Language of the printed captions: en, de, es, fr or zh.")] = "en",
    as_json: AsJson = False,
) -> None:
    """Draw scenes of the procedural world on one sheet, and print what each shows."""
    from suffuse.world import batch, parse, render, scenes_from_caption

    from .sheet import contact_sheet, save_png

    if caption:
        captions = [parse(caption)] * number
        views = render(scenes_from_caption(captions, seed), resolution)
    else:
        views, captions = batch("train", 0, number, resolution, seed=seed)
    texts = [c.text(language) for c in captions]
    save_png(contact_sheet(views.rgb), output)
    show([{"scene": i + 1, "caption": text} for i, text in enumerate(texts)], as_json=as_json)
    if not as_json:
        print(f"{number} scenes in {output}")
