"""Finding the seeds that a model draws best from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suffuse.core.errors import BadInput

from .output import AsJson, show
from .plugins import SCORERS, guidance_of, plugin


def seeds(
    prompts: Annotated[list[str] | None, typer.Argument(help="What to draw; by default captions of the world.")] = None,
    model: Annotated[str, typer.Option(help="Bundled name, folder, .safetensors file or hub id.")] = "shapes",
    number: Annotated[int, typer.Option("-n", min=2, help="Seeds 0, 1, ... that are tried with every prompt.")] = 16,
    captions: Annotated[int, typer.Option(min=1, help="Captions where no prompts are given.")] = 8,
    keep: Annotated[int, typer.Option(min=1, help="Seeds that go into the file, the best first.")] = 4,
    scorer: Annotated[str, typer.Option(help=f"Who scores; {SCORERS}")] = "TIFASelect()",
    steps: Annotated[int | None, typer.Option(help="Steps; by default the model's.")] = None,
    guidance: Annotated[str | None, typer.Option(help="Scale or expression.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Expression.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, for SeedBank.load.")] = Path(
        "seeds.json"
    ),
    as_json: AsJson = False,
) -> None:
    """Rank seeds by the mean score of their pictures over all prompts; a seed fixes all noise of a picture."""
    from dataclasses import replace

    import torch

    from suffuse import load
    from suffuse.guidance.questions import Scorer
    from suffuse.noise import SeedBank
    from suffuse.probing import SeedStudy
    from suffuse.world import frozen

    if keep > number:
        raise BadInput(f"keep={keep}: only {number} seeds are tried; keep fewer, or try more with -n")
    by = plugin(scorer)
    if not isinstance(by, Scorer):
        raise BadInput(f"scorer={scorer!r}: {type(by).__name__} scores no pictures; use TIFASelect()")
    loaded, moves = load(model), plugin(sampler) if sampler else None
    texts = prompts or [str(c) for c in frozen("validation")[1][:captions]]
    bank = SeedBank(tuple(range(number)))
    pixels, scores = [], []
    for text in texts:
        made = loaded.generate(
            text, n=number, noise=bank, steps=steps, guidance=guidance_of(guidance), sampler=moves
        ).latents
        pixels.append(loaded.decode(made).clamp(-1, 1))
        scores.append(by(pixels[-1], text).values)
    study = SeedStudy(torch.stack(pixels), {"score": torch.stack(scores)}, bank.seeds)
    order, shares = study.ranked("score"), study.shares("score")
    place = replace(loaded.setting(tuple(made.shape[1:])), sampler=str(moves or loaded.defaults.sampler))
    SeedBank(order[:keep], place).save(output)
    means = study.scores["score"].double().mean(0)
    places = {name: v.mean(0) for name, v in study.dimensions().items()}
    rows = [
        {
            "seed": s,
            "score": round(float(means[s]), 4),
            "kept": s in order[:keep],
            **{name: round(float(v[s]), 3) for name, v in places.items()},
        }
        for s in order
    ]
    show(rows, title=f"variance from seeds {shares.seed:.1%}, from prompts {shares.prompt:.1%}", as_json=as_json)
