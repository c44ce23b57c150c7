"""PIE-Bench: 700 pictures with prompts before and after an edit, and the region that it may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadInput, Damaged
from ..core.files import read_json
from ..images import to_tensor
from .cases import Cases
from .edit_case import EditCase

SIDE = 512

KINDS = (
    "random", "change object", "add object", "delete object", "change content", "change pose", "change colour",
    "change material", "change background", "change style",
)  # fmt: skip
"""Edit types by their number."""


@dataclass(frozen=True)
class PIEBench(Cases[EditCase]):
    """The cases of a PIE-Bench folder, read one by one as they are asked for.

    Args:
        folder: with `mapping_file.json` and `annotation_images`.
        kinds: names of edit types; empty is all ten.

    Raises:
        Damaged: a file is missing or is not as it should be.

    Reference: Ju et al., Direct Inversion: Boosting Diffusion-based Editing with 3 Lines of Code, 2310.01506.
    """

    folder: str
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise BadInput(f"kinds has {kind!r}: PIE-Bench has {', '.join(KINDS)}")

    def __len__(self) -> int:
        return len(self._entries)

    def case(self, k: int) -> EditCase:
        name, entry = self._entries[k]
        try:
            return EditCase(
                name=name,
                kind=KINDS[int(entry["editing_type_id"])],
                image=to_tensor(Path(self.folder) / "annotation_images" / entry["image_path"])[0],
                source=_plain(entry["original_prompt"]),
                target=_plain(entry["editing_prompt"]),
                mask=decode_mask(entry["mask"]),
                words=tuple(entry["blended_word"].split()),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{self.folder}: mapping_file.json: entry {name!r}: {error!r}; copy it again") from error

    @cached_property
    def _entries(self) -> list[tuple[str, Mapping[str, Any]]]:
        table = read_json(Path(self.folder) / "mapping_file.json")
        try:
            numbers = {k: KINDS[int(v["editing_type_id"])] for k, v in table.items()}
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise Damaged(f"{self.folder}/mapping_file.json: not PIE-Bench's ({error!r}); copy it again") from error
        return [(k, v) for k, v in table.items() if not self.kinds or numbers[k] in self.kinds]


def decode_mask(runs: Sequence[int], side: int = SIDE) -> Tensor:
    """(side, side) bool of a run-length code: start and length in turns, along the rows of the picture.

    The border is always inside, because annotations miss it.
    """
    if len(runs) % 2:
        raise Damaged(f"mask: {len(runs)} numbers; a run-length code has a start and a length in turns")
    mask = torch.zeros(side * side, dtype=torch.bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        mask[start : start + length] = True
    mask = mask.reshape(side, side)
    mask[[0, -1]] = True
    mask[:, [0, -1]] = True
    return mask


def _plain(prompt: str) -> str:
    """Without the brackets that mark the words in question."""
    return prompt.replace("[", "").replace("]", "")
