"""Making a picture larger."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .output import AsJson, show_json
from .plugins import guidance_of, plugin
from .progress import Bar


def upscale(
    picture: Annotated[Path, typer.Argument(help="Picture to enlarge.")],
    prompt: Annotated[str | None, typer.Option(help="What it shows.")] = None,
    model: Annotated[str, typer.Option(help="Bundled name, folder, .safetensors file or hub id.")] = "shapes",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG file; by default NAME-large.png beside the picture.")
    ] = None,
    factor: Annotated[float, typer.Option(help="How much larger.")] = 2.0,
    height: Annotated[int | None, typer.Option(help="Pixels, with --width, instead of a factor.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, with --height, instead of a factor.")] = None,
    method: Annotated[str, typer.Option(help="Expression, such as 'DemoFusion()'.")] = "DiffuseHigh()",
    steps: Annotated[int | None, typer.Option(help="Steps of a whole run; by default the model's.")] = None,
    guidance: Annotated[str | None, typer.Option(help="Scale or expression; by default the model's.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Expression; by default the model's.")] = None,
    negative: Annotated[str | None, typer.Option(help="What to lead away from.")] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a picture larger, with details that the model knows."""
    from suffuse import load
    from suffuse.conditioning.prompts import read_prompt
    from suffuse.images import writable

    place = writable(output or picture.with_name(f"{picture.stem}-large.png"))
    loaded = load(model)
    started = time.perf_counter()
    with Bar(as_json) as bar:
        images = loaded.upscale(
            picture, read_prompt(prompt) if prompt else None, factor=factor, height=height, width=width,
            method=plugin(method), steps=steps, guidance=guidance_of(guidance), seed=seed,
            sampler=plugin(sampler) if sampler else None, negative_prompt=read_prompt(negative) if negative else None,
            progress=bar.advance,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    (file,) = images.save(place)
    spent = int(images.nfe[0])
    if as_json:
        show_json({"file": str(file), "seconds": seconds, "evaluations": spent, "recipe": images.recipes[0]})
        return
    print(f"{file}\n{seconds:.2f} s, {spent} network evaluations")
