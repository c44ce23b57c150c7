"""Class labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.conditioner import Piece, Size
from ..core.errors import BadInput, nearest


class Classes(Piece):
    """ "label" (B,): the number of a class.

    Args:
        count: number of classes, without the null class.
        names: name -> number; a number may always be given as such.
        null: number that stands for no class, or None where the network has none.
    """

    def __init__(self, count: int, names: Mapping[str, int], null: int | None):
        super().__init__()
        self.count, self.names, self.null = count, dict(names), null
        self.register_buffer("_device", torch.zeros(0), persistent=False)

    _device: Tensor

    @property
    def optional(self) -> bool:
        return self.null is not None

    def number(self, prompt: Any) -> int:
        """The class that a prompt means."""
        if prompt is None and self.null is not None:
            return self.null
        if isinstance(prompt, str) and prompt in self.names:
            return self.names[prompt]
        if isinstance(prompt, int) or (isinstance(prompt, str) and prompt.isdecimal()):
            if 0 <= int(prompt) < self.count:
                return int(prompt)
            raise BadInput(f"prompt={prompt!r}: this model has classes 0 to {self.count - 1}; give one of them")
        raise BadInput(f"prompt={prompt!r}: no such class; {self._known(str(prompt))}")

    def _known(self, name: str) -> str:
        return nearest(name, self.names) if self.names else f"give a number, 0 to {self.count - 1}"

    def forward(self, prompts: Sequence[Any], cond: Cond, size: Size) -> Cond:
        return cond | {"label": torch.tensor([self.number(p) for p in prompts], device=self._device.device)}
