"""A picture edited step by step: every edit is a value, can be undone, and leaves what is outside of its mask alone."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..core.errors import BadInput, Damaged, SuffuseError
from ..core.expression import parse, unparse
from ..core.files import atomic_write
from ..core.model import Model
from ..core.plugin import Plugin
from ..images import Picture, mask_tensor, to_pil, to_tensor
from .keep_outside import composite
from .stages import Stage


class PictureEdit(Plugin):
    """What is done to a picture: a frozen dataclass of plain values, so that a session can say it and do it again."""

    @abstractmethod
    def apply(self, model: Model, pixels: Tensor, mask: Tensor, hint: Tensor, control: Stage | None) -> Tensor:
        """The picture after it, (1, 3, H, W) in [-1, 1]; what it returns outside of the mask is not used.

        Args:
            model: that makes it.
            pixels: (1, 3, H, W) the picture as it is.
            mask: (1, 1, H, W) in [0, 1], 1 where it may change.
            hint: (1, 3, H, W) the picture with what the user drew on it; the picture itself where nothing was.
            control: what makes the steps under control, or None.
        """


@dataclass(frozen=True, eq=False)
class Done:
    """An edit of a session, where, with what was drawn, and the picture after it."""

    edit: PictureEdit
    mask: Tensor
    hint: Tensor | None
    pixels: Tensor


@dataclass(frozen=True, eq=False)
class EditSession:
    """A picture and what was done to it, step by step.

    It is a value: doing, undoing and redoing return another session. Edits are put together in pixels, and no picture
    is encoded as a whole: what no mask covers is the first picture's to the bit, after any number of edits.

    Args:
        start: (1, 3, H, W) the first picture, in [-1, 1].
        edits: what was done, the latest last.
        undone: how many of these are undone.

    Example:
        >>> session = EditSession.of("room.png").do(SPICE("a red chair"), model, "mask.png").undo().redo()
        >>> session.save("room.session"); EditSession.load("room.session", model).image
    """

    start: Tensor
    edits: tuple[Done, ...] = ()
    undone: int = 0

    @classmethod
    def of(cls, image: Picture) -> EditSession:
        """A session that begins with a picture."""
        return cls(to_tensor(image))

    @property
    def done(self) -> tuple[Done, ...]:
        """The edits that are not undone."""
        return self.edits[: len(self.edits) - self.undone]

    @property
    def pixels(self) -> Tensor:
        """(1, 3, H, W): the picture as it is now."""
        return self.done[-1].pixels if self.done else self.start

    @property
    def image(self) -> Image.Image:
        """The picture as it is now."""
        return to_pil(self.pixels)[0]

    @torch.no_grad()
    def do(
        self, edit: PictureEdit, model: Model, mask: Picture, hint: Picture | None = None, control: Stage | None = None
    ) -> EditSession:
        """One edit more; it forgets those that were undone. `control` makes the steps under control."""
        before = self.pixels
        size = (before.shape[-2], before.shape[-1])
        where, drawn = mask_tensor(mask, size), None if hint is None else to_tensor(hint, size)
        after = edit.apply(model, before, where, before if drawn is None else drawn, control)
        return replace(self, edits=(*self.done, Done(edit, where, drawn, composite(before, after, where))), undone=0)

    def undo(self) -> EditSession:
        """Before the latest edit."""
        if not self.done:
            raise BadInput("undo: no edit is left to undo")
        return replace(self, undone=self.undone + 1)

    def redo(self) -> EditSession:
        """The latest undone edit again."""
        if not self.undone:
            raise BadInput("redo: no edit is undone")
        return replace(self, undone=self.undone - 1)

    def replay(self, model: Model, control: Stage | None = None) -> EditSession:
        """All edits made again from the first picture, with the masks and hints that they were made with."""
        again = EditSession(self.start)
        for each in self.edits:
            again = again.do(each.edit, model, each.mask, each.hint, control)
        return replace(again, undone=self.undone)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the first picture and the list of edits to a safetensors file; pictures in between are made again."""
        tensors = {"start": self.start.contiguous()}
        for k, each in enumerate(self.edits):
            tensors |= {f"mask.{k}": each.mask.contiguous()}
            tensors |= {} if each.hint is None else {f"hint.{k}": each.hint.contiguous()}
        about = {"edits": [unparse(each.edit) for each in self.edits], "undone": self.undone}
        return atomic_write(path, save(tensors, {"session": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model, control: Stage | None = None) -> EditSession:
        """Read what `save` wrote and make the edits again.

        Raises:
            Damaged: it is missing, or not a session.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["session"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            start, undone = tensors["start"], int(about["undone"])
            edits = tuple(
                Done(parse(text, PictureEdit), tensors[f"mask.{k}"], tensors.get(f"hint.{k}"), start)  # type: ignore[type-abstract]
                for k, text in enumerate(about["edits"])
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, SuffuseError) as error:
            raise Damaged(f"{path}: not a session of edits ({error}); save it again") from error
        return cls(start, edits, undone).replay(model, control)
