"""Rebuilding a picture from the recipe in its file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .core.errors import BadInput
from .core.expression import parse
from .core.model import Images, Model
from .core.recipe import hash_of, read_prompt
from .core.tuned import Mode
from .images import Picture, mask_tensor, recipe_of, to_tensor
from .tuning import in_modes

if TYPE_CHECKING:
    from .editing.task import Edits

BEYOND = {
    "lost": "with parts that a recipe cannot hold",
    "latents": "from given latents, which a recipe does not hold",
}


def replay(
    path: str | os.PathLike[str],
    *,
    model: Model | None = None,
    image: Picture | None = None,
    mask_image: Picture | None = None,
    patches: Sequence[Any] = (),
) -> Images | Edits:
    """Make the picture in a PNG file again; an edit from the picture that it is an edit of.

    Args:
        path: a PNG file that suffuse wrote.
        model: the model that made it; default, the one that the recipe names is loaded.
        image, mask_image: what it was made from, where it was made from a picture; recognised by their hash.
        patches: adapters that the recipe cannot hold.

    Raises:
        BadInput: no recipe, other weights than the recipe's, or a missing or different source picture.
    """
    recipe = recipe_of(path)
    for key, why in BEYOND.items():
        if key in recipe and not patches:
            raise BadInput(f"{path}: was made {why}; call model.generate with them")
    if "seed" not in recipe:
        raise BadInput(f"{path}: was made with a generator or noise of its own; call model.generate with it")
    if model is None:
        from .loading.sources import load

        model = load(recipe["model"])
    if model.fingerprint != recipe["fingerprint"]:
        raise BadInput(
            f"{path}: was made with weights {recipe['fingerprint']} of {recipe['model']!r}, and these are "
            f"{model.fingerprint}; pass the model that made it as `model`"
        )
    for part in ("conditioner", "codec"):
        if recipe.get(part) != model.exchanged.get(part):
            raise BadInput(
                f"{path}: was made with {recipe.get(part, 'the usual')} as {part}; pass the model that made it"
            )
    if modes := {part: Mode(**recipe[part]) for part in ("mode", "decoder") if part in recipe}:
        model = in_modes(model, **modes)
    height, width = recipe["height"], recipe["width"]
    _same(path, "image", recipe, None if image is None else hash_of(to_tensor(image, (height, width))))
    _same(path, "mask", recipe, None if mask_image is None else hash_of(mask_tensor(mask_image, (height, width))))
    patches = [*map(parse, recipe.get("patches", ())), *patches]
    if recipe.get("task") == "edit":
        return _edit(recipe, model.with_(*patches), image, mask_image)
    return model.generate(
        read_prompt(recipe.get("prompt")),
        negative_prompt=read_prompt(recipe.get("negative_prompt")),
        sampler=parse(recipe["sampler"]),
        spacing=parse(recipe["spacing"]),
        guidance=parse(recipe["guidance"]),
        patches=patches,
        hooks=[parse(hook) for hook in recipe.get("hooks", ())],
        steps=recipe["steps"],
        seed=recipe["seed"],
        samples=[recipe["sample"]],
        height=height,
        width=width,
        image=image,
        mask_image=mask_image,
        strength=recipe.get("strength"),
        upscale=parse(recipe["upscale"]) if "upscale" in recipe else None,
        truncate=True,
    )


def _edit(recipe: Mapping[str, Any], model: Model, image: Picture | None, mask: Picture | None) -> Edits:
    assert image is not None  # the recipe of an edit has its hash
    return model.edit(
        image,
        read_prompt(recipe["source"]),
        read_prompt(recipe["target"]),
        inversion=parse(recipe["inversion"]),
        editor=[parse(editor) for editor in recipe.get("editor", ())],
        mask=mask,
        points=recipe.get("points"),
        spacing=parse(recipe["spacing"]) if "spacing" in recipe else None,
        steps=recipe["steps"],
        guidance=parse(recipe["guidance"]),
        sampler=parse(recipe["sampler"]),
        negative_prompt=read_prompt(recipe.get("negative_prompt")),
        seed=recipe["seed"],
        samples=[recipe.get("sample", 0)],
    )


def _same(path: Any, name: str, recipe: Mapping[str, Any], found: str | None) -> None:
    if recipe.get(name) == found:
        return
    if found is None:
        of, argument = ("from a picture", "image") if name == "image" else ("with a mask", "mask_image")
        raise BadInput(f"{path}: was made {of}; give the same one as `{argument}` (--{name})")
    if name in recipe:
        raise BadInput(f"{name}: this is not the one that {path} was made with; give that")
    raise BadInput(f"{name}: {path} was made without one; leave it out")
