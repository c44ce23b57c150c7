"""Folders of two domains: pictures to be translated, and pictures of what they are to become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..core.errors import BadInput, Damaged
from ..images import to_tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class Source(NamedTuple):
    """One picture to be translated."""

    path: Path
    name: str
    """Of its class: its folder's, with spaces for underscores."""

    @property
    def image(self) -> Tensor:
        """(3, H, W) in [-1, 1]."""
        return to_tensor(str(self.path))[0]


@dataclass(frozen=True)
class PairedDomains(Sequence[Source]):
    """The pictures of `folder/CLASS/SPLITA`, to become what `folder/CLASS/SPLITB` shows, as Skull2Animal has them.

    Pictures of the two folders belong to each other by class and not one by one, unless their names are the same.

    Args:
        folder: with a folder for each class.
        split: "train", "test", ...

    Raises:
        BadInput: no class has pictures of this split. Damaged: a picture cannot be read.

    Example:
        >>> skulls = PairedDomains("skull2animal")
        >>> revive(model, [s.image for s in skulls], [s.name for s in skulls], recognise=classifier)

    Reference: Martin et al., Jurassic World Remake, 2308.07316.
    """

    folder: str
    split: str = "test"

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, k: int) -> Source:  # type: ignore[override]
        return self._found[k]

    def targets(self, name: str) -> list[Path]:
        """Pictures of the target domain of a class, for reference statistics."""
        return _pictures(Path(self.folder) / name.replace(" ", "_") / f"{self.split}B")

    def partner(self, source: Source) -> Path | None:
        """The target picture of the same name, or None."""
        return next((p for p in self.targets(source.name) if p.stem == source.path.stem), None)

    @cached_property
    def _found(self) -> list[Source]:
        root = Path(self.folder)
        if not root.is_dir():
            raise Damaged(f"PairedDomains: no folder {self.folder}; give one with a folder for each class")
        found = [
            Source(path, kind.name.replace("_", " "))
            for kind in sorted(p for p in root.iterdir() if p.is_dir())
            for path in _pictures(kind / f"{self.split}A")
        ]
        if not found:
            raise BadInput(f"PairedDomains(split={self.split!r}): no pictures in {root}/*/{self.split}A")
        return found


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix.lower() in ENDINGS)
