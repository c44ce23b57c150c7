"""Searching for the best way to run a model with less work."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from suffuse.core.errors import BadInput

from .output import AsJson, show
from .threads import Threads, limit


def plan(
    model: Annotated[str, typer.Option(help="Bundled name, folder, .safetensors file or hub id.")] = "shapes",
    budget: Annotated[
        str,
        typer.Option(help="Largest share of the baseline's multiplications, such as 0.4x; time is measured beside it."),
    ] = "0.4x",
    tolerance: Annotated[float, typer.Option(help="Largest error over the baseline's.")] = 1.1,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file of prompts, one a line; by default captions of the world.")
    ] = None,
    number: Annotated[int, typer.Option("-n", min=2, help="Prompts that are used.")] = 32,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the baseline.")] = 50,
    most: Annotated[int, typer.Option(min=1, help="Stacks of several options that are measured.")] = 6,
    reader: Annotated[
        bool, typer.Option("--reader", help="Error is what the bundled reader misses, not the distance of latents.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for the recipe; `generate --plan FILE` runs it.")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Search stacks of solvers, guidances, caches and bfloat16 for the fastest of least error within a budget."""
    from suffuse import load
    from suffuse.caching import plan_acceleration
    from suffuse.world import frozen

    limit(threads)
    share = re.fullmatch(r"(\d*\.?\d+)x?", budget)
    if share is None:
        raise BadInput(f"--budget {budget}: give a share of the work, such as 0.4x")
    if prompts is None:
        texts = [str(c) for c in frozen("validation")[1][:number]]
    else:
        texts = [line for line in prompts.read_text().splitlines() if line.strip()][:number]

    def report(stack: Any) -> None:
        print(f"{stack}: MACs {stack.macs:.2f}, time {stack.time}, error {stack.error}", file=sys.stderr, flush=True)

    found = plan_acceleration(
        load(model), texts, budget=float(share[1]), tolerance=tolerance, steps=steps, most=most,
        error=_missed if reader else None, report=report,
    )  # fmt: skip
    show(found.table(), as_json=as_json)
    if output is not None:
        found.save(output)


def _missed(images: Any, prompts: Any) -> Any:
    """One minus the reader's score of the objects of each caption."""
    import torch

    from suffuse.evaluation.features import load_reader
    from suffuse.images import to_tensor
    from suffuse.world import parse
    from suffuse.zoo.judge import judge

    reader, _ = load_reader(None)
    with torch.no_grad():
        found = judge(reader.read(to_tensor(images.images)), [parse(p) for p in prompts])
    return 1.0 - found.objects.score.double().numpy()
