"""How the bundled models were trained: one file a model, each with a `RECIPE`; resumable, on CPU or GPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ...core.errors import BadInput, nearest

if TYPE_CHECKING:
    from .building import Recipe

FILES = {
    "digits": "digits", "reader": "reader", "shapes": "shapes", "shapes-flow": "flow", "text": "text", "vae": "vae",
}  # fmt: skip
"""Model, or part of the text-to-image models -> file of this package; also what its folder is called."""


def recipe(name: str) -> Recipe:
    """The recipe of a model or of a part of one.

    Raises:
        BadInput: there is none of this name.
    """
    if name not in FILES:
        raise BadInput(f"name: there is no recipe {name!r}; {nearest(name, FILES)}")
    return import_module(f".{FILES[name]}", __name__).RECIPE
