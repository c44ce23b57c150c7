"""What rebuilds a picture: plain data, written into its file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .environment import versions
from .errors import BadInput
from .prompt import PromptValue

Recipe = Mapping[str, Any]


def recipe(*, parts: Mapping[str, Any], plain: Mapping[str, Any], lost: Sequence[str] = ()) -> Recipe:
    """A recipe; what is None or empty is left out.

    Args:
        parts: plug-ins or lists of them, said as expressions. One that an expression cannot say (it holds tensors or
            functions) is listed under "lost", and the recipe does not rebuild the picture.
        plain: everything else, as JSON can hold it.
        lost: what else it cannot hold.
    """
    unsaid = [*lost]
    said = {name: _say(name, part, unsaid) for name, part in parts.items()}
    whole = {**plain, **said, "lost": unsaid, "versions": dict(versions())}
    return {k: v for k, v in whole.items() if v is not None and v != []}


def of_picture(shared: Recipe, prompts: Mapping[str, Any], **own: Any) -> Recipe:
    """The recipe of one picture of a run: its prompts and what else is its own, with what all pictures share."""
    lost = [*shared.get("lost", ())]
    whole = {**{name: _say_prompt(name, p, lost) for name, p in prompts.items()}, **shared, **own, "lost": lost}
    return {k: v for k, v in whole.items() if v is not None and v != []}


def _say_prompt(name: str, prompt: Any, lost: list[str]) -> Any:
    """Text or class as it is, a value as {"expression": text}, so that no text is taken for an expression."""
    if not isinstance(prompt, PromptValue):
        return prompt
    said = _say(name, prompt, lost)
    return said and {"expression": said}


def read_prompt(said: Any) -> Any:
    """The prompt that a recipe says."""
    from .expression import parse

    return parse(said["expression"], PromptValue) if isinstance(said, Mapping) else said


def _say(name: str, part: Any, lost: list[str]) -> Any:
    from .expression import unparse

    if isinstance(part, Sequence) and not isinstance(part, str):
        return [said for p in part if (said := _say(name, p, lost)) is not None]
    if part is None:
        return None
    try:
        return unparse(part)
    except BadInput:
        lost.append(f"{name}: {type(part).__name__}")
        return None


def hash_of(pixels: Tensor) -> str:
    """16 digits that recognise a picture, a mask or a state."""
    return hashlib.blake2b(pixels.detach().cpu().contiguous().numpy().tobytes(), digest_size=8).hexdigest()
