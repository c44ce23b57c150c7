"""Rebuilding a picture from the recipe in its file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .core.errors import BadInput
from .core.expression import parse
from .core.model import Images, Model
from .core.recipe import hash_of
from .images import Picture, mask_tensor, recipe_of, to_tensor


def replay(path: str | os.PathLike[str], *, model: Model | None = None, image: Picture | None = None,
           mask_image: Picture | None = None, patches: tuple[Any, ...] = ()) -> Images:  # fmt: skip
    """Make the picture in a PNG file again.

    Args:
        path: a PNG file that suffuse wrote.
        model: the model that made it; default, the one that the recipe names is loaded.
        image, mask_image: what it was made from, where it was made from a picture; recognised by their hash.
        patches: adapters that the recipe cannot hold.

    Raises:
        BadInput: no recipe, other weights than the recipe's, or a missing or different source picture.
    """
    recipe = recipe_of(path)
    if recipe.get("lost") and not patches:
        raise BadInput(f"{path}: its recipe could not hold {', '.join(recipe['lost'])}; give them in Python: suffuse.replay(path, patches=...)")
    if "latents" in recipe:
        raise BadInput(f"{path}: was made from given latents, which a recipe does not hold; call model.generate with them")
    if "seed" not in recipe:
        raise BadInput(f"{path}: was made with a generator or a noise of its own, which a recipe does not hold")
    if model is None:
        from .loading.sources import load

        model = load(recipe["model"])
    if model.fingerprint != recipe["fingerprint"]:
        raise BadInput(f"{path}: was made with weights {recipe['fingerprint']}, and {recipe['model']} here has {model.fingerprint}; "
                       "load the model that made it and pass it as `model`")  # fmt: skip
    size = (recipe["height"], recipe["width"])
    _same(path, "image", recipe, None if image is None else hash_of(to_tensor(image, size)))
    _same(path, "mask", recipe, None if mask_image is None else hash_of(mask_tensor(mask_image, size)))
    return model.generate(
        recipe.get("prompt"), negative_prompt=recipe.get("negative_prompt"), steps=recipe["steps"], seed=recipe["seed"],
        samples=[recipe["sample"]], height=size[0], width=size[1], strength=recipe.get("strength"), image=image, mask_image=mask_image,
        sampler=parse(recipe["sampler"]), spacing=parse(recipe["spacing"]), guidance=parse(recipe["guidance"]),
        patches=[*map(parse, recipe.get("patches", ())), *patches], hooks=[parse(h) for h in recipe.get("hooks", ())], truncate=True,
    )  # fmt: skip


def _same(path: Any, name: str, recipe: Mapping[str, Any], found: str | None) -> None:
    if recipe.get(name) == found:
        return
    if found is None:
        raise BadInput(f"{path}: was made from a picture; give the same one as `{name}`")
    raise BadInput(f"{name}: this is not the picture that {path} was made from; give that one" if name in recipe else
                   f"{name}: {path} was made from noise alone; leave it out")  # fmt: skip
