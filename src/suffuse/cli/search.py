"""Finding a schedule or a solver for a model; what is found is a file that `suffuse generate` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffuse.core.errors import BadInput

from .output import AsJson, show, show_json
from .plugins import plugin
from .threads import Threads, limit

if TYPE_CHECKING:
    from torch import Tensor

    from suffuse.evaluation.features import Features

app = typer.Typer(help="Find a schedule, a solver or seeds for a model.", no_args_is_help=True)

Model = Annotated[str, typer.Option(help="Bundled name, folder, .safetensors file or hub id.")]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", help="What the model makes meanwhile, by turns; by default captions of the world."),
]
Guidance = Annotated[str | None, typer.Option(help="Scale or expression; by default the model's.")]


@app.command()
def schedule(
    output: Annotated[Path, typer.Option("--output", "-o", help="Policy file to write.")] = Path("policy.safetensors"),
    model: Model = "shapes",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the full network that a picture may cost.")] = 5,
    layers: Annotated[float, typer.Option(help="Share of all layers of these steps that may run, 0 to 1.")] = 1.0,
    max_prune: Annotated[
        float, typer.Option(help="Largest share of the layers that is left out at one step; 0 searches times only.")
    ] = 0.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the evolution.")] = 10,
    population: Annotated[int, typer.Option(min=2, help="New candidates in a round.")] = 50,
    number: Annotated[int, typer.Option("-n", min=3, help="Pictures that a candidate is scored by.")] = 200,
    reference: Annotated[
        Path | None, typer.Option(help="Folder of pictures to be near to; by default the world's validation split.")
    ] = None,
    prompt: Prompts = None,
    guidance: Guidance = None,
    sampler: Annotated[str | None, typer.Option(help="Expression; by default the model's.")] = None,
    inception: Annotated[
        Path | None, typer.Option(help="Weights of Inception, to compare in its features and not the reader's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise and of the evolution.")] = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Search times, and layers to leave out, by evolution (AutoDiffusion): least Frechet distance to a reference.

    Use what is found as `suffuse generate --spacing @policy.safetensors --patch @policy.safetensors`.
    """
    limit(threads)
    import torch

    from suffuse import load, sample, save_method
    from suffuse.caching import AutoDiffusion
    from suffuse.evaluation.features import ReaderFeatures
    from suffuse.evaluation.frechet import frechet
    from suffuse.evaluation.inception import InceptionFeatures
    from suffuse.search import Evolution

    loaded = load(model)
    features = InceptionFeatures(str(inception)) if inception else ReaderFeatures()
    goal = _moments(features, _reference(reference))
    run: dict[str, Any] = {
        **_place(loaded, prompt or ([None] if reference else _captions(number)), number),
        "sampler": plugin(sampler) if sampler else loaded.defaults.sampler,
        "guidance": _guidance(loaded, guidance),
    }

    def distance(states: Tensor) -> float:
        pictures = torch.cat([loaded.decode(part) for part in states.split(64)]).clamp(-1, 1)
        return frechet(_moments(features, pictures), goal)

    def report(scores: Any) -> None:
        own, best = next(iter(scores.known.values())), min(scores.known.values())
        if not as_json:
            print(f"{len(scores.known)} candidates: {best:.4g}, the model's own times {own:.4g}", flush=True)

    found = AutoDiffusion.search(
        **run, distance=distance, steps=steps, layers=layers, max_prune=max_prune, rounds=rounds, seed=seed,
        noise=seed, evolution=Evolution.of(population), report=report,
    )  # fmt: skip
    save_method(found, output)
    denoiser, x = run.pop("denoiser"), run.pop("x")
    own = sample(denoiser, x, steps=steps, **{**run, "noise": seed + 1}).x
    new = sample(denoiser, x, **{**run, "noise": seed + 1, "spacing": found}, patches=[found]).x
    row = {
        "policy": str(output),
        "times": list(found.made_for.times),
        "layers left out": [len(step) for step in found.skipped],
        "distance on fresh noise": distance(new),
        "with the model's own times": distance(own),
    }
    if as_json:
        show_json(row)
    else:
        show([row])


@app.command()
def solver(
    output: Annotated[Path, typer.Option("--output", "-o", help="Solver file to write.")] = Path("olss.safetensors"),
    model: Model = "shapes",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the solver.")] = 5,
    fine: Annotated[int, typer.Option(min=2, help="Steps of the DDIM runs that it learns from, 100 to 1000.")] = 100,
    number: Annotated[int, typer.Option("-n", min=1, help="Runs to learn from.")] = 32,
    prompt: Prompts = None,
    guidance: Guidance = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Find the linear solver that comes nearest to long runs (OLSS), for one guidance.

    Use what is found as `suffuse generate --sampler @olss.safetensors`, with the same guidance.
    """
    limit(threads)
    from suffuse import load, save_method
    from suffuse.samplers import OLSS

    loaded = load(model)
    how = _guidance(loaded, guidance)
    place = _place(loaded, prompt or _captions(number), number)
    found = OLSS.fit(**place, steps=steps, fine=fine, guidance=how, noise=seed)
    save_method(found, output)
    row = {"solver": str(output), "times": list(found.made_for.times), "guidance": str(how)}
    if as_json:
        show_json(row)
    else:
        show([row])


def _guidance(loaded: Any, text: str | None) -> Any:
    """The guidance that a scale or an expression means for a model; its own where nothing is said."""
    if not text:
        return loaded.defaults.guidance
    try:
        return loaded.defaults.guide(float(text))
    except ValueError:
        return plugin(text)


def _captions(number: int) -> list[str]:
    from suffuse.world import frozen

    return [str(c) for c in frozen("validation")[1][:number]]


def _place(loaded: Any, prompts: Sequence[str | None], number: int) -> dict[str, Any]:
    shape = loaded.codec.space.shape(loaded.defaults.size)
    turns = [prompts[i % len(prompts)] for i in range(number)]
    return {
        "denoiser": loaded.denoiser,
        "x": (number, *shape),
        "cond": loaded.condition(turns),
        "spacing": loaded.defaults.spacing,
        "setting": loaded.setting(shape),
    }


def _reference(folder: Path | None) -> Tensor:
    from suffuse.images import to_tensor
    from suffuse.world import frozen, render

    if folder is None:
        return render(frozen("validation")[0]).rgb
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if len(files) < 3:
        raise BadInput(f"reference: {len(files)} pictures in {folder}; give a folder of PNG or JPEG files")
    return to_tensor(list(files))


def _moments(features: Features, pictures: Tensor) -> Any:
    import torch

    from suffuse.evaluation.moments import Moments

    return Moments.of(torch.cat([features(part) for part in pictures.split(64)]))
