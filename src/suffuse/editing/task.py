"""Editing a picture by two prompts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..core.arguments import listed
from ..core.errors import BadInput
from ..core.model import Model
from ..core.noise import Keyed
from ..core.patch import Adapter, Patch
from ..core.plugin import Prompt
from ..core.recipe import Recipe, hash_of, of_picture, recipe
from ..core.registry import method
from ..core.step import Guidance, Hook, Sampler, Step
from ..images import Picture, save_pngs, to_pil, to_tensor
from ..samplers.ancestral import DDIM
from .code import Code
from .direct_inversion import DirectInversion
from .inverter import Inverter, Plan
from .lockstep import Decoded, decode
from .prompt_to_prompt import PromptToPrompt


@dataclass(frozen=True, eq=False)
class Edits:
    """What `edit` returns.

    Attributes:
        images: the edits, PIL images.
        reconstructions: what the source branch made of the pictures.
        code: of the pictures; give it to `edit` in place of an inverter for another edit.
        decoded: the states behind both, and the evaluations spent.
        recipes: what rebuilds each.
    """

    images: list[Image.Image]
    reconstructions: list[Image.Image]
    code: Code
    decoded: Decoded
    recipes: list[Recipe]

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write PNG files with their recipes: to this file, or as 000.png, 001.png, ... into this folder."""
        return save_pngs(self.images, path, self.recipes)


@method(tags=("editing",))
@torch.no_grad()
def edit(
    model: Model,
    image: Picture | Sequence[Picture] | None,
    source: Prompt | Sequence[Prompt],
    target: Prompt | Sequence[Prompt],
    *,
    inverter: Inverter | Code = DirectInversion(),
    editors: Sequence[Any] = (PromptToPrompt(),),
    steps: int = 50,
    guidance: Guidance | float | None = None,
    sampler: Sampler = DDIM(),
    negative_prompt: Prompt | None = None,
    seed: int = 0,
    progress: Callable[[Step], None] | None = None,
) -> Edits:
    """Change pictures from what one prompt says to what another says.

    An inverter finds the pictures in the model; then source and target branch are decoded side by side, and editors
    carry attention and features from one to the other.

    Args:
        model: a loaded model.
        image: pictures, one for each prompt; None with a code.
        source, target: what they show, and what they are to show.
        inverter: how they are found, or a code that was found before.
        editors: patches and hooks between the branches; () is none.
        steps, guidance, sampler, seed: of the run; `guidance` is one, or its scale; default the model's.
        negative_prompt: what guidance leads away from, in both branches.
        progress: called with each step of decoding before it is made.

    Raises:
        BadInput: arguments that do not match. Refused: parts that do not go together.

    Example:
        >>> edit(model, "circle.png", "a red circle", "a blue circle").images[0]
    """
    _check("inverter", inverter, (Inverter, Code), "DirectInversion()")
    _check("sampler", sampler, (Sampler,), "DDIM()")
    for editor in editors:
        _check("editors", editor, (Patch, Adapter, Hook), "PromptToPrompt()")
    befores, afters = listed(source), listed(target)
    given = isinstance(inverter, Code)
    if given == (image is not None):
        raise BadInput("image: give pictures with an inverter, or None with a code")
    pixels = None if image is None else to_tensor(image)
    x0 = inverter.x if isinstance(inverter, Code) else model.encode(pixels)  # type: ignore[arg-type]
    if not len(befores) == len(afters) == len(x0):
        raise BadInput(
            f"source, target: {len(befores)} and {len(afters)} prompts for {len(x0)} pictures; give one each"
        )
    shape, factor = tuple(x0.shape[1:]), model.codec.space.factor
    size = (shape[1] * factor, shape[2] * factor)
    spacing = sampler.spacing or model.defaults.spacing
    scale = model.defaults.guidance if guidance is None else guidance
    plan = Plan(
        denoiser=model.denoiser,
        grid=spacing.grid(model.denoiser.process, steps, shape),
        sampler=sampler,
        guidance=scale if isinstance(scale, Guidance) else model.defaults.guide(float(scale)),
        noise=Keyed(seed),
        setting=model.setting(shape),
        guide=model.defaults.guide,
    )
    before, after = (model.condition(texts, negative_prompt, size=size, grid=plan.grid) for texts in (befores, afters))
    code = inverter if isinstance(inverter, Code) else inverter.encode(plan, x0, before)
    found = decode(plan, code, before, after, editors, progress)
    shared = recipe(
        parts={"inverter": inverter, "editors": list(editors), "guidance": plan.guidance, "sampler": sampler,
               "patches": model.changes},
        plain={"task": "edit", "model": model.name, "fingerprint": model.fingerprint, "steps": steps, "seed": seed,
               "height": size[0], "width": size[1]},
    )  # fmt: skip
    recipes = [
        of_picture(
            shared,
            {"source": befores[row], "target": afters[row], "negative_prompt": negative_prompt},
            image=None if pixels is None else hash_of(pixels[row : row + 1]),
        )
        for row in range(len(x0))
    ]
    return Edits(to_pil(model.decode(found.target)), to_pil(model.decode(found.source)), code, found, recipes)


def _check(name: str, given: object, kinds: tuple[type, ...], example: str) -> None:
    if not isinstance(given, kinds):
        what = " or ".join(kind.__name__ for kind in kinds)
        raise BadInput(f"{name}: {given!r:.60} is no {what}; give one such as {example}")
