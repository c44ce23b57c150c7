"""Pictures between two pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import AsJson, show
from .plugins import guidance_of, plugin


def interpolate(
    first: Annotated[Path, typer.Argument(help="Picture to begin with.")],
    last: Annotated[Path, typer.Argument(help="Picture to end with, of the same size.")],
    model: Annotated[str, typer.Option(help="Bundled name, folder, .safetensors file or hub id.")] = "shapes",
    frames: Annotated[int, typer.Option("-n", min=2, help="Pictures, both ends included.")] = 5,
    how: Annotated[str, typer.Option(help="'NoiseDiffusion()', 'Slerp()' or 'AddedNoise()'.")] = "NoiseDiffusion",
    prompt: Annotated[str | None, typer.Option(help="What they show.")] = None,
    guidance: Annotated[str | None, typer.Option(help="Scale or expression, of the decoding; default 1.")] = None,
    strength: Annotated[float, typer.Option(help="How far up both are encoded, 0 to 1.")] = 1.0,
    steps: Annotated[int | None, typer.Option(help="Steps; by default the model's.")] = None,
    seed: Annotated[int, typer.Option(help="Of fresh noise.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures and a sheet.")] = Path(
        "out/between"
    ),
    as_json: AsJson = False,
) -> None:
    """Make the pictures between two pictures, by way of their noise."""
    from suffuse import load
    from suffuse.core.errors import BadInput
    from suffuse.images import writable
    from suffuse.noise import interpolate as between
    from suffuse.noise.interpolation import Interpolation

    from .sheet import contact_sheet, save_png

    writable(output, frames)
    rule = plugin(how)
    if not isinstance(rule, Interpolation):
        raise BadInput(f"how={how!r}: {type(rule).__name__} does not interpolate; use NoiseDiffusion()")
    found = between(
        load(model), first, last, how=rule, shares=[k / (frames - 1) for k in range(frames)], prompt=prompt,
        guidance=1.0 if guidance is None else guidance_of(guidance), strength=strength, steps=steps, seed=seed,
    )  # fmt: skip
    files = [save_png(image, output / f"{k:03d}.png") for k, image in enumerate(found.images)]
    save_png(contact_sheet(found.pixels, columns=frames), output / "sheet.png")
    ends = {0: found.diagnoses[0], frames - 1: found.diagnoses[1]}
    rows = [
        {
            "picture": str(path),
            "share": round(share, 3),
            **({f"noise {name}": round(v, 3) for name, v in vars(ends[k]).items()} if k in ends else {}),
        }
        for k, (path, share) in enumerate(zip(files, found.shares, strict=True))
    ]
    show(rows, as_json=as_json)
