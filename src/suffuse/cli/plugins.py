"""Plug-ins as one names them on the command line."""

from __future__ import annotations

from typing import Any


def plugin(text: str) -> Any:
    """The plug-in of an expression such as `DEIS(order=3)`, or of a file of `save_method` such as `@olss.safetensors`.

    Raises:
        BadInput: not an expression, or no such file. Damaged: the file holds no fitted method.
    """
    if text.startswith("@"):
        from suffuse.core.fitted import load_method

        return load_method(text[1:])
    from suffuse.core.expression import parse

    return parse(text)


def guidance_of(text: str | None) -> Any:
    """A guidance, its scale, or None where nothing is said.

    Raises:
        BadInput: neither a number nor an expression.
    """
    try:
        return float(text) if text else None
    except ValueError:
        return plugin(text or "")
