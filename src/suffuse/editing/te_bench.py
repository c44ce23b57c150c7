"""TEdBench: 100 pairs of a photograph and a text that says what it is to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import ImageOps

from ..core.errors import Damaged
from ..core.files import read_json
from ..images import to_pil, to_tensor
from .cases import Cases
from .edit_case import EditCase


@dataclass(frozen=True)
class TEdBench(Cases[EditCase]):
    """The cases of a TEdBench folder, read one by one as they are asked for; nothing says what the pictures show now.

    Args:
        folder: with `input_list.json` and `originals`.
        side: of the pictures, which are cut to the square in their middle.

    Raises:
        Damaged: a file is missing or is not as it should be.

    Example:
        >>> Survey(model, TEdBench("tedbench/")[:], marks=None)

    Reference: Kawar et al., Imagic: Text-Based Real Image Editing with Diffusion Models, 2210.09276.
    """

    folder: str
    side: int = 512

    def __len__(self) -> int:
        return len(self._entries)

    def case(self, k: int) -> EditCase:
        entry = self._entries[k]
        (whole,) = to_pil(to_tensor(Path(self.folder) / "originals" / entry["img_name"]))
        square = ImageOps.fit(whole, (self.side, self.side))
        return EditCase(
            name=f"{k:03d} {entry['img_name']}",
            kind="text",
            image=to_tensor(square)[0],
            source="",
            target=entry["target_text"],
            mask=torch.ones(self.side, self.side, dtype=torch.bool),
        )

    @cached_property
    def _entries(self) -> list[Mapping[str, str]]:
        found = read_json(Path(self.folder) / "input_list.json")
        fits = isinstance(found, list) and all(
            isinstance(v, dict) and {"img_name", "target_text"} <= v.keys() for v in found
        )
        if not fits:
            raise Damaged(f"{self.folder}/input_list.json: is no list of img_name and target_text; copy it again")
        return found
