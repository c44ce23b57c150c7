"""Speed against diffusers, in one process, side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffuse.core.errors import BadInput, nearest

from .output import AsJson, show
from .threads import Threads, limit

if TYPE_CHECKING:
    from suffuse.evaluation.timing import Paired

app = typer.Typer(
    help="Measure speed against diffusers: interleaved, paired, ratios with intervals.", no_args_is_help=True
)

Rounds = Annotated[int, typer.Option(min=5, help="Pairs.")]


@app.command()
def generate(
    model: Annotated[str, typer.Option(help="Model that both sides run.")] = "shapes",
    prompt: Annotated[str, typer.Option(help="Prompt.")] = "a red circle left of a blue square",
    steps: Annotated[int, typer.Option(min=1, help="Steps.")] = 20,
    number: Annotated[int, typer.Option("-n", min=1, help="Pictures at once.")] = 1,
    guidance: Annotated[float, typer.Option(help="Guidance scale of both.")] = 4.0,
    rounds: Rounds = 10,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Whole pictures: model.generate against the stock diffusers pipeline of the same checkpoint, seed and steps."""
    import torch

    from suffuse import load
    from suffuse.evaluation.operations import operations
    from suffuse.evaluation.timing import ceiling, paired

    limit(threads)
    loaded = load(model)
    pipe = loaded.to_diffusers()
    pipe.set_progress_bar_config(disable=True)

    def ours() -> Any:
        return loaded.generate(prompt, steps=steps, guidance=guidance, n=number)

    def theirs() -> Any:
        return pipe(
            prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
            num_images_per_prompt=number,
            generator=torch.Generator().manual_seed(0),
        )

    measured = paired(ours, theirs, rounds=rounds)
    share = operations(ours) / measured.medians[0] / ceiling()
    _print(f"{loaded.name}, {steps} steps, {number} at once", measured, {"share of ceiling": f"{share:.1%}"}, as_json)


@app.command()
def loop(
    model: Annotated[str, typer.Option(help="Model to run.")] = "digits",
    steps: Annotated[int, typer.Option(min=1, help="Steps.")] = 20,
    number: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 1,
    rounds: Rounds = 20,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """What the engine costs: a whole run of DDIM against a loop by hand, of the same network calls and updates."""
    import torch

    from suffuse import load, sample
    from suffuse.core.value import Coef
    from suffuse.evaluation.timing import paired
    from suffuse.samplers import DDIM

    limit(threads)
    loaded = load(model)
    cond, denoiser = loaded.condition(None).repeat(number), loaded.denoiser
    start = torch.randn(number, *loaded.codec.space.shape(loaded.defaults.size))
    process, (one, none) = denoiser.process, (torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    grid = process.steps(steps)

    def share(x: torch.Tensor, value: torch.Tensor, t: Coef, s: Coef) -> float:
        p = process.predict(x, t, value, loaded.network.kind)
        return float(process.posterior(x, p, t, s, 0.0).mean)

    nodes = [(grid.node(i), grid.node(i + 1)) for i in range(steps)]
    moves = [(float(t.d), share(one, none, t, s), share(none, one, t, s)) for t, s in nodes]

    @torch.no_grad()
    def by_hand() -> torch.Tensor:
        x = start
        for t, of_x, of_value in moves:
            x = of_x * x + of_value * denoiser(x, t, cond).value
        return x

    def run() -> torch.Tensor:
        return sample(denoiser, start, sampler=DDIM(), steps=steps, cond=cond).x

    assert torch.allclose(run(), by_hand(), atol=1e-4)
    _print(
        f"engine on {loaded.name}, {steps} steps, {number} at once", paired(run, by_hand, rounds=rounds), {}, as_json
    )


@app.command()
def sampler(
    only: Annotated[str, typer.Option("--only", help="Part of a method's name, such as DPM; by default all.")] = "",
    steps: Annotated[int, typer.Option(min=2, help="Steps of a run.")] = 20,
    pairs: Annotated[int, typer.Option(min=5, help="Runs of each side.")] = 40,
    as_json: AsJson = False,
) -> None:
    """What a step of a sampler costs, without the network, against diffusers' scheduler of the same method."""
    from suffuse.testing.scheduler_bench import cases, measure

    limit(1)  # times are those of the one thread that is measured
    known = cases(steps)
    chosen = {name: case for name, case in known.items() if only.lower() in name.lower()}
    if not chosen:
        raise BadInput(f"only: no method is called {only!r}; {nearest(only, known)}")
    costs = [measure(case, name, pairs) for name, case in chosen.items()]
    show(
        [
            {
                "method": cost.method,
                "ratio (below 1: faster)": str(cost.ratio),
                "suffuse, us a step": cost.ours,
                "diffusers, us a step": cost.theirs,
            }
            for cost in costs
        ],
        as_json=as_json,
    )


@app.command()
def peers(
    model: Annotated[str, typer.Option(help="UNet or flow transformer on which all are compared.")] = "shapes",
    captions: Annotated[int, typer.Option(min=8, help="Validation captions, for quality.")] = 128,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Pictures made in one timed call.")] = 4,
    rounds: Rounds = 5,
    compiled: Annotated[bool, typer.Option("--compiled", help="Let ours try torch.compile; takes minutes.")] = False,
    threads: Threads = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write the table to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ours beside diffusers as it comes and at its best, and other caches; speed-ups in three classes, never mixed."""
    from suffuse import load
    from suffuse.core.environment import processor, versions
    from suffuse.core.files import write_json
    from suffuse.testing.peer_arms import arms
    from suffuse.testing.peers import compare, table

    limit(threads)
    baseline, others = arms(model, compiled)
    loaded = load(model)
    shape = loaded.codec.space.shape(loaded.defaults.size)
    found = table(compare(baseline, others, shape, captions=captions, at_once=at_once, rounds=rounds))
    if output is not None:
        write_json(
            output,
            {"model": model, "captions": captions, "at_once": at_once, "rows": found, **versions(), **processor()},
        )
    show(found, as_json=as_json)


def _print(what: str, measured: Paired, more: dict[str, Any], as_json: bool) -> None:
    unit: Callable[[float], str] = lambda s: f"{s * 1e3:.2f} ms"  # noqa: E731
    ours, theirs = measured.medians
    show(
        [
            {
                "what": what,
                "ratio (below 1: faster)": str(measured.ratio),
                "pairs": measured.ratio.n,
                "suffuse": unit(ours),
                "baseline": unit(theirs),
                "cold": f"{unit(measured.cold[0])} / {unit(measured.cold[1])}",
                **more,
            }
        ],
        as_json=as_json,
    )
