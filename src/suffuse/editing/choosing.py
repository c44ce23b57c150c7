"""Which methods an instruction calls for: by its task and by what the user gives besides, without a language model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import BadInput, Refused
from ..core.plugin import Plugin
from ..core.registry import cite, resolve
from .inverter import Inverter

WORDS: dict[str, tuple[str, ...]] = {
    "style": ("style", "painting", "sketch", "whole picture"),
    "texture": ("texture", "material", "pattern"),
    "background": ("background", "backdrop", "scenery"),
    "action": ("move", "pose", "left of", "right of", "above", "below", "sit", "stand", "jump", "run"),
    "remove": ("remove", "delete", "erase", "take away", "without"),
    "add": ("add", "insert", "put", "place"),
    "replace": ("replace", "swap", "change", "turn", "make", "colour", "color"),
}
"""What tells a task in an instruction; the first that is found counts, the most particular first."""


@dataclass(frozen=True)
class Way:
    """Methods for some tasks, under a condition on the inputs.

    Args:
        tasks: that it serves.
        inversion, editors: names in the registry; those that declare the place "mask" need one.
        why: what speaks for it.
    """

    tasks: tuple[str, ...]
    inversion: str
    editors: tuple[str, ...]
    why: str


WAYS = (
    Way(
        ("add", "remove", "replace", "background", "texture"), "DirectInversion", ("KeepOutside", "PromptToPrompt"),
        "the mask says where to change, so the rest is put back at every step",
    ),
    Way(
        ("replace", "texture"), "DirectInversion", ("PromptToPrompt", "LocalBlend"),
        "words are exchanged: their attention maps keep the layout, and blending keeps what they do not attend to",
    ),
    Way(
        ("background", "style"), "DirectInversion", ("PlugAndPlay",),
        "much of the picture changes its look: features of the source keep its structure",
    ),
    Way(
        ("action",), "DirectInversion", ("MasaCtrl",),
        "things move: mutual self-attention keeps their look without keeping their layout",
    ),
    Way(
        ("add", "remove"), "DiffEdit", (),
        "what comes or goes has no counterpart whose attention could be kept: a mask is found from both prompts",
    ),
)  # fmt: skip
"""Ways in the order in which they are tried."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What `choose` returns.

    Attributes:
        task: among the survey's seven.
        inversion, editor: the methods.
        why: the reasons, one a line.
    """

    task: str
    inversion: Inverter
    editor: tuple[Plugin, ...]
    why: tuple[str, ...]

    @property
    def arguments(self) -> Mapping[str, Any]:
        """For `edit`."""
        return {"inversion": self.inversion, "editor": self.editor}

    @property
    def citations(self) -> str:
        """BibTeX of the methods."""
        return cite(self.inversion, self.editor)


def choose(instruction: str, *, mask: bool = False, points: bool = False) -> Choice:
    """Pick an inversion and editors for an instruction, and say why.

    The task is read from words such as "replace" or "background". The ways of doing it are tried in order; one whose
    methods need a mask is passed over where none is given. A mask that is of no use to the choice is named in `why`;
    leave it out of the edit.

    Args:
        instruction: what is to be done, in English.
        mask: whether the user gives a mask.
        points: whether the user gives drags.

    Raises:
        BadInput: no word of the instruction tells a task. Refused: drags, which are no matter of prompts.

    Example:
        >>> choice = choose("Replace the red circle with a blue circle.")
        >>> edit(model, image, "a red circle", "a blue circle", **choice.arguments)
        >>> print(*choice.why, sep="\\n")

    Reference: Huang et al., Diffusion Model-Based Image Editing: A Survey, 2402.17525.
    """
    if points:
        raise Refused("points: drags are followed by DragDiffusion or DragonDiffusion; call those, or leave points out")
    task, word = _task(instruction)
    why = [f"task {task}: the instruction says {word!r}"]
    for way in WAYS:
        if task not in way.tasks:
            continue
        parts = [resolve(name).target() for name in (way.inversion, *way.editors)]
        names = ", ".join(type(part).__name__ for part in parts)
        needs_mask = any("mask" in part.places for part in parts)
        if needs_mask and not mask:
            why.append(f"not {names}: needs a mask, and none is given")
            continue
        if mask and not needs_mask:
            why.append(f"the mask is not used by {names}")
        return Choice(task, parts[0], tuple(parts[1:]), (*why, f"{names}: {way.why}"))
    raise Refused(f"instruction={instruction!r}: nothing here does the task {task!r} with these inputs; {why[-1]}")


def _task(instruction: str) -> tuple[str, str]:
    """The task of an instruction, and the word that tells it."""
    for task, words in WORDS.items():
        found = re.search(rf"\b({'|'.join(words)})\b", instruction.lower())
        if found:
            return task, found[0]
    known = ", ".join(words[0] for words in WORDS.values())
    raise BadInput(f"instruction={instruction!r}: no word of it tells what to do; use one such as {known}")
