"""Pictures found in a model, and changed by two prompts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..core.arguments import fitting, identities, integer, listed, spread
from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.grid import Spacing
from ..core.guidance import Guidance
from ..core.hook import Hook
from ..core.model import Model
from ..core.noise import Keyed
from ..core.patch import Adapter, Patch
from ..core.plugin import Prompt
from ..core.recipe import Recipe, hash_of, of_picture, recipe
from ..core.registry import method
from ..core.sampler import Sampler
from ..core.step import Step
from ..images import Picture, mask_tensor, save_pngs, to_pil, to_tensor
from ..samplers.ancestral import DDIM
from .branches import PLACE, PairNoise
from .code import Code
from .ddim_inversion import DDIMInversion
from .direct_inversion import DirectInversion
from .inverter import Inverter, Plan
from .keep_outside import KeepOutside
from .lockstep import Decoded, decode
from .masactrl import MasaCtrl
from .prompt_to_prompt import PromptToPrompt
from .region_energy import RegionEnergy
from .regions import Drag

USERS: dict[str, Any] = {"mask": KeepOutside(), "points": RegionEnergy(Drag())}
"""An editor for each thing that one may point at."""


@dataclass(frozen=True, eq=False)
class Edits:
    """What `edit` returns.

    Attributes:
        images: the edits, PIL images.
        reconstructions: what the source branch made of the pictures.
        code: of the pictures; give it to `edit` as `inversion`, without pictures, for another edit.
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


@torch.no_grad()
def invert(
    model: Model,
    image: Picture | Sequence[Picture],
    prompt: Prompt | Sequence[Prompt] | None = None,
    *,
    inversion: Inverter = DDIMInversion(),
    steps: int = 50,
    guidance: Guidance | float | None = None,
    sampler: Sampler = DDIM(),
    spacing: Spacing | None = None,
    negative_prompt: Prompt | None = None,
    seed: int = 0,
) -> Code:
    """Find pictures in the model: the code from which `edit` decodes, as often as one likes.

    Args:
        model: a loaded model.
        image: one, or one for each prompt.
        prompt: what they show.
        inversion: the method.
        steps, guidance, sampler, spacing, negative_prompt, seed: of the decoding that the code is meant for.

    Example:
        >>> code = invert(model, "circle.png", "a red circle")
        >>> edit(model, None, "a red circle", "a blue circle", inversion=code).images[0]
        >>> model.generate("a red circle", latents=code.x, sampler=DDIM(), steps=50, guidance=1.0)
    """
    _check("inversion", inversion, (Inverter,), "DDIMInversion()")
    x0 = model.encode(image)
    plan, size = plan_of(model, x0.shape[1:], steps, guidance, sampler, spacing, seed)
    prompts = spread("prompt", listed(prompt), len(x0))
    return inversion.encode(plan, x0, model.condition(prompts, negative_prompt, size=size, grid=plan.grid))


@method(tags=("editing",))
@torch.no_grad()
def edit(
    model: Model,
    image: Picture | Sequence[Picture] | None,
    source: Prompt | Sequence[Prompt],
    target: Prompt | Sequence[Prompt],
    *,
    inversion: Inverter | Code = DirectInversion(),
    editor: Any = None,
    mask: Picture | Sequence[Picture] | None = None,
    points: Sequence[Sequence[float]] | None = None,
    steps: int = 50,
    guidance: Guidance | float | None = None,
    sampler: Sampler = DDIM(),
    spacing: Spacing | None = None,
    negative_prompt: Prompt | None = None,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    progress: Callable[[Step], None] | None = None,
) -> Edits:
    """Change pictures from what one prompt says to what another says.

    An inversion finds the pictures in the model; then source and target branch are decoded side by side, and editors
    carry attention and features from one to the other.

    Args:
        model: a loaded model.
        image: pictures, one for each prompt, edited at the nearest size that the model can make; None with a code.
        source, target: what they show, and what they are to show.
        inversion: how they are found, or a code that was found before.
        editor: one or several patches, hooks and guidances between the branches, the outermost first; () is none.
            Default `PromptToPrompt()` where the network has cross-attention, else `MasaCtrl()`; and, unless the
            inversion uses them, with points `RegionEnergy(Drag())` and with a mask `KeepOutside()`.
        mask: the region in question, white, for editors and inversions that ask for one; one for all or one each.
        points: drags (x0, y0, x1, y1) in pixels from the left upper corner, for editors and inversions that ask for
            them; all pictures share them.
        steps, guidance, sampler, spacing, seed: of the run; `guidance` is one, or its scale; default the model's.
        negative_prompt: what guidance leads away from, in both branches.
        samples: identities of the pictures, default 0, 1, 2, ...; `samples=[3]` makes the fourth of a batch alone.
        progress: called with each step of decoding before it is made.

    Raises:
        BadInput: arguments that do not match. Refused: parts that do not go together.

    Example:
        >>> edit(model, "circle.png", "a red circle", "a blue circle").images[0]
    """
    _check("inversion", inversion, (Inverter, Code), "DirectInversion()")
    _check("sampler", sampler, (Sampler,), "DDIM()")
    inverter = inversion.inverter if isinstance(inversion, Code) else inversion
    if editor is None:
        editor = _usual(model, inverter, points=points, mask=mask)
    editors = list(editor) if isinstance(editor, (list, tuple)) else [editor]
    for each in editors:
        _check("editor", each, (Patch, Adapter, Hook, Guidance), "PromptToPrompt()")
    befores, afters = listed(source), listed(target)
    given = isinstance(inversion, Code)
    if given == (image is not None):
        raise BadInput("image: give pictures with an inverter, or None with a code")
    x0 = inversion.x if isinstance(inversion, Code) else model.encode(image)  # type: ignore[arg-type]
    if not len(befores) == len(afters) == len(x0):
        raise BadInput(
            f"source, target: {len(befores)} and {len(afters)} prompts for {len(x0)} pictures; give one each"
        )
    plan, size = plan_of(model, x0.shape[1:], steps, guidance, sampler, spacing, seed)
    pixels, ids = None if image is None else to_tensor(image, size), identities(samples, len(x0))
    plan = replace(plan, noise=PairNoise(plan.noise, tuple(ids)))
    place = _place(mask, points, size, len(x0), [inverter, *editors])
    before, after = (
        model.condition(texts, negative_prompt, plugins=editors, size=size, grid=plan.grid).with_alt(**place)
        for texts in (befores, afters)
    )
    code = inversion if isinstance(inversion, Code) else inversion.encode(plan, x0, before)
    found = decode(plan, code, before, after, editors, progress)
    shared = recipe(
        parts={"inversion": inversion, "editor": editors, "guidance": plan.guidance, "sampler": sampler,
               "spacing": spacing, "patches": model.added},
        plain={"task": "edit", **model.identity, "steps": steps, "seed": seed, "points": points, "height": size[0],
               "width": size[1]},
    )  # fmt: skip
    masks = place[PLACE]["mask"] if mask is not None else None
    recipes = [
        of_picture(
            shared,
            {"source": befores[row], "target": afters[row], "negative_prompt": negative_prompt},
            sample=ids[row],
            image=None if pixels is None else hash_of(pixels[row : row + 1]),
            mask=None if masks is None else hash_of(masks[row : row + 1]),
        )
        for row in range(len(x0))
    ]
    return Edits(to_pil(model.decode(found.target)), to_pil(model.decode(found.source)), code, found, recipes)


def plan_of(
    model: Model, shape: Sequence[int], steps: int, guidance: Guidance | float | None, sampler: Sampler,
    spacing: Spacing | None, seed: int,
) -> tuple[Plan, tuple[int, int]]:  # fmt: skip
    """How codes of states of a shape (C, h, w) are decoded, and the size of their pictures."""
    shape, factor = tuple(shape), model.codec.space.factor
    plan = Plan(
        denoiser=model.denoiser,
        grid=(spacing or sampler.spacing or model.defaults.spacing).grid(model.denoiser.process, steps, shape),
        sampler=sampler,
        guidance=model.defaults.guided_by(guidance),
        noise=Keyed(integer("seed", seed)),
        setting=model.setting(shape),
        guide=model.defaults.guide,
    )
    return plan, (shape[1] * factor, shape[2] * factor)


def _place(
    mask: Any, points: Sequence[Sequence[float]] | None, size: tuple[int, int], rows: int, users: Sequence[Any]
) -> dict[str, Cond]:
    """What the user points at, as alternative of the condition; see `branches.place`."""
    entries: dict[str, Tensor] = {}
    if mask is not None:
        entries["mask"] = fitting("mask", mask_tensor(mask, size), rows)
    if points is not None:
        drags = torch.tensor(points, dtype=torch.float32)
        if drags.ndim != 2 or drags.shape[1] != 4:
            raise BadInput(f"points={points}: give drags (x0, y0, x1, y1) in pixels")
        if bool((drags < 0).any()) or bool((drags >= torch.tensor([size[1], size[0]] * 2)).any()):
            raise BadInput(f"points={points}: must lie in the picture, which is {size[1]} x {size[0]}")
        entries["points"] = drags.expand(rows, -1, -1)
    for name in entries:
        if name not in _uses(users):
            raise BadInput(f"{name}: neither inversion nor editor makes use of it; add an editor such as {USERS[name]}")
    return {PLACE: Cond(entries)} if entries else {}


def _uses(plugins: Sequence[Any]) -> set[str]:
    """What they use of the places that a user points at."""
    return {place for plugin in plugins for part in plugin.bare for place in part.places}


def _usual(model: Model, inverter: Inverter, **pointed: Any) -> list[Any]:
    """The editors of an edit that names none, and what uses the places that are pointed at."""
    sites = model.denoiser.sites
    editors: list[Any] = [PromptToPrompt() if sites is not None and sites.attention("cross") else MasaCtrl()]
    for name, what in pointed.items():
        if what is not None and name not in _uses([inverter, *editors]):
            editors.append(USERS[name])
    return editors


def _check(name: str, given: object, kinds: tuple[type, ...], example: str) -> None:
    if not isinstance(given, kinds):
        what = " or ".join(kind.__name__ for kind in kinds)
        raise BadInput(f"{name}: {given!r:.60} is no {what}; give one such as {example}")
