"""The best of several candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .generate import Patches
from .output import AsJson, show
from .plugins import SCORERS, guidance_of, plugin


def select(
    prompt: Annotated[str, typer.Argument(help="What to show.")],
    model: Annotated[str, typer.Option(help="Bundled name, folder, .safetensors file or hub id.")] = "shapes",
    number: Annotated[int, typer.Option("-n", min=1, help="Candidates at most.")] = 4,
    scorer: Annotated[str, typer.Option(help=f"Who picks; {SCORERS}")] = "TIFASelect()",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="PNG file of the best, or folder for all, the best first.")
    ] = Path("out/best.png"),
    batch: Annotated[int, typer.Option(min=1, help="Candidates made at once; it stops when one is faultless.")] = 4,
    steps: Annotated[int | None, typer.Option(help="Steps; by default the model's.")] = None,
    guidance: Annotated[str | None, typer.Option(help="Scale or expression.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Expression.")] = None,
    patch: Patches = None,
    seed: Annotated[int, typer.Option(help="Seed; candidate k is picture k of it.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make several pictures of a prompt and keep the most faithful one."""
    from suffuse import load
    from suffuse.core.errors import BadInput
    from suffuse.guidance import select as best
    from suffuse.guidance.questions import Scorer
    from suffuse.images import save_png, writable

    writable(output)
    by = plugin(scorer)
    if not isinstance(by, Scorer):
        raise BadInput(f"scorer={scorer!r}: {type(by).__name__} scores no pictures; use TIFASelect()")
    found = best(
        load(model), prompt, scorer=by, n=number, batch=batch, steps=steps, seed=seed, guidance=guidance_of(guidance),
        sampler=plugin(sampler) if sampler else None, patches=[plugin(p) for p in patch or ()],
    )  # fmt: skip
    one = output.suffix.lower() == ".png"
    files = [output] if one else [output / f"{rank:03d}.png" for rank in range(len(found.images))]
    for image, path, recipe in zip(found.images, files, found.recipes, strict=False):
        save_png(image, path, recipe)
    rows = [
        {
            "rank": rank,
            "picture": str(files[rank]) if rank < len(files) else "",
            "sample": sample,
            "score": round(score, 4),
            "wrong": [q.text for q, a in zip(found.questions, answers, strict=False) if a != q.answer],
        }
        for rank, (sample, score, answers) in enumerate(
            zip(found.samples, found.scores.tolist(), found.answers, strict=True)
        )
    ]
    show(rows, title=f"{found.nfe} network evaluations", as_json=as_json)
