"""Plug-ins as one names them on the command line."""

from __future__ import annotations

from typing import Any

SCORERS = (
    "TIFASelect() asks the bundled reader, who knows captions of the world alone, RewardSelect(CLIPScore('folder')) a "
    "CLIP model that you have."
)
"""Help of options that name a scorer."""


def plugin(text: str) -> Any:
    """The plug-in of an expression such as `DEIS(order=3)`, or of a file of `save_method` such as `@olss.safetensors`.

    A guidance from a file may begin a chain: `@classifier.safetensors | CFG(3)`.

    Raises:
        BadInput: not an expression, or no such file. Damaged: the file holds no fitted method.
    """
    from suffuse.core.expression import parse

    if not text.startswith("@"):
        return parse(text)
    from suffuse.core.fitted import load_method

    path, chained, rest = text[1:].partition(" | ")
    return load_method(path) | parse(rest) if chained else load_method(path)


def guidance_of(text: str | None) -> Any:
    """A guidance, its scale, or None where nothing is said.

    Raises:
        BadInput: neither a number nor an expression.
    """
    try:
        return float(text) if text else None
    except ValueError:
        return plugin(text or "")
