"""Making pictures, and making them again."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import AsJson, show, show_json
from .plugins import guidance_of, plugin
from .progress import Bar

Patches = Annotated[
    list[str] | None,
    typer.Option("--patch", help="Change to the network, such as 'DeepCache(every=3)'; may be given again."),
]


def generate(
    prompt: Annotated[
        str,
        typer.Argument(
            help="What to show; a class for class-conditional models; or an expression such as "
            "\"Weighted('a (red:1.3) circle')\" or \"Switch('a circle', 'a red circle', when=0.4)\"."
        ),
    ],
    model: Annotated[str, typer.Option(help="Bundled name, folder, .safetensors file or hub id.")] = "shapes",
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            help="Adapter file of any program (LoRA, LyCORIS, ...), such as 0.8*style.safetensors; may be given again. "
            "All commands take them in --model too: 'shapes + 0.8*style.safetensors'.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG file, or folder for several; by default in out/.")
    ] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Number of pictures.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Steps; by default the model's.")] = None,
    guidance: Annotated[
        str | None, typer.Option(help="Scale or expression, such as 5 or 'AdaptiveGuidance(5) | CFG(3)'.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="Expression, such as 'DEIS(order=3)'; see `suffuse methods`.")
    ] = None,
    spacing: Annotated[str | None, typer.Option(help="Where the steps lie, such as 'Karras()'.")] = None,
    patch: Patches = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="File of `suffuse plan`: sampler, steps, guidance, patches, mode of computation."),
    ] = None,
    hook: Annotated[list[str] | None, typer.Option("--hook", help="Change to the steps; may be given again.")] = None,
    negative: Annotated[str | None, typer.Option(help="What to lead away from; as the prompt.")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture to start from.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="White where the picture is to change, black where it stays.")
    ] = None,
    strength: Annotated[float | None, typer.Option(help="Share of the steps made from the picture, 0 to 1.")] = None,
    seed: Annotated[int, typer.Option(help="Seed; picture k of a seed is the same in any number.")] = 0,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures made at once; by default all.")] = None,
    speed: Annotated[
        str | None,
        typer.Option(
            help="Compute the network in the fastest way found on this machine: 'exact' up to rounding of float32, "
            "'near' up to that of bfloat16. Measured at first use, then remembered."
        ),
    ] = None,
    upscale: Annotated[
        str | None,
        typer.Option(help="How pictures become larger than the model's own size, such as 'DemoFusion()'."),
    ] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut a prompt that is too long instead of refusing it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make pictures of a prompt; from another picture with --image, in a part of it with --mask."""
    from suffuse import load, tuned
    from suffuse.caching.stacks import load_recipe
    from suffuse.conditioning.prompts import read_prompt
    from suffuse.images import writable

    target = output or Path("out") / f"{_slug(prompt)}-{seed}{'' if number > 1 else '.png'}"
    writable(target, number)
    words, against = read_prompt(prompt), read_prompt(negative) if negative else None
    loaded = load(" + ".join([model, *(lora or ())]))
    if speed:
        loaded = tuned(loaded, speed, rows=2 * (batch or number))
    how: dict[str, Any] = {
        "steps": steps, "guidance": guidance_of(guidance), "sampler": plugin(sampler) if sampler else None,
        "patches": [plugin(p) for p in patch or ()],
    }  # fmt: skip
    if plan:
        recipe = load_recipe(plan)
        loaded, how = recipe.on(loaded), {**recipe.settings, **{k: v for k, v in how.items() if v not in (None, [])}}
    started = time.perf_counter()
    with Bar(as_json) as bar:
        images = loaded.generate(
            words, negative_prompt=against, n=number, seed=seed, spacing=plugin(spacing) if spacing else None,
            hooks=[plugin(h) for h in hook or ()], **how,
            image=image, mask_image=mask, strength=strength, height=height, width=width, batch=batch, truncate=truncate,
            upscale=plugin(upscale) if upscale else None, progress=bar.advance,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    files = images.save(target)
    if number > 1:
        files.append(_sheet(images.images, target / "sheet.png"))
    if as_json:
        show_json(
            {
                "files": [str(f) for f in files],
                "seconds": seconds,
                "evaluations": images.nfe.tolist(),
                "recipes": images.recipes,
            }
        )
        return
    spent = images.nfe.float().mean().item()
    print(f"{number} picture{'s' * (number > 1)} of {loaded.name}: {target}")
    print(f"{seconds:.2f} s, {seconds / number:.2f} s a picture, {spent:.0f} network evaluations each")


def replay(
    picture: Annotated[Path, typer.Argument(help="PNG file that suffuse wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG file to write; by default NAME-replay.png.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or file of the model, where its name alone does not find it.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Picture that it was made from, if any.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Mask that it was made with, if any.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a picture again from the recipe in its file, and compare; exit 1 where it differs visibly."""
    import numpy as np
    from PIL import Image

    from suffuse import load
    from suffuse.images import writable
    from suffuse.rebuild import replay as rebuild

    target = writable(output or picture.with_name(f"{picture.stem}-replay.png"))
    images = rebuild(picture, model=load(model) if model else None, image=image, mask_image=mask)
    images.save(target)
    new, old = (np.asarray(i.convert("RGB"), dtype=int) for i in (images.images[0], Image.open(picture)))
    difference = int(np.abs(new - old).max()) if new.shape == old.shape else 255
    show([{"picture": str(target), "largest difference of 255": difference}], as_json=as_json)
    if difference > 1:  # rounding to 8 bits may differ by one between batch sizes and machines
        raise typer.Exit(1)


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "picture"


def _sheet(pictures: list[Any], path: Path) -> Path:
    from suffuse.images import to_tensor

    from .sheet import contact_sheet, save_png

    return save_png(contact_sheet(to_tensor(pictures)), path)
