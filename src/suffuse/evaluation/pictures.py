"""What pictures are measured with: their captions, the pictures that they should equal, the pixels that count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffuse.core.errors import BadInput


@dataclass(frozen=True, eq=False)
class Pictures:
    """A batch of pictures and what is known of each.

    Args:
        images: (B, C, H, W) float in [-1, 1].
        captions: B texts or captions of the world; empty where there are none.
        references: (B, C, H, W) the picture that each should equal, or None.
        mask: (B, 1, H, W) or (B, H, W), true or 1 on a region such as the edited one, or None.
        sources: B captions of the references; empty where there are none.
    """

    images: Tensor
    captions: Sequence[Any] = ()
    references: Tensor | None = None
    mask: Tensor | None = None
    sources: Sequence[Any] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.ndim != 4 or not self.images.is_floating_point():
            raise BadInput(f"images: {self.images.dtype} of shape {shape}; give floats (B, C, H, W) in [-1, 1]")
        n, _, *size = shape
        if self.references is not None and self.references.shape != self.images.shape:
            raise BadInput(f"references: shape {tuple(self.references.shape)} for images {shape}; give the same shape")
        if self.captions and len(self.captions) != n:
            raise BadInput(f"captions: {len(self.captions)} for {n} images; give one each")
        if self.sources and len(self.sources) != n:
            raise BadInput(f"sources: {len(self.sources)} for {n} images; give one each")
        if self.mask is not None:
            mask = self.mask[:, None] if self.mask.ndim == 3 else self.mask
            if mask.shape != (n, 1, *size):
                raise BadInput(f"mask: shape {tuple(self.mask.shape)} for images {shape}; give (B, 1, H, W)")
            object.__setattr__(self, "mask", mask.bool())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Pictures:
        references, mask = (None if v is None else v[rows] for v in (self.references, self.mask))
        return Pictures(self.images[rows], self.captions[rows], references, mask, self.sources[rows])

    def batches(self, size: int) -> Iterator[Pictures]:
        """The same pictures, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @property
    def unit(self) -> Tensor:
        """The images in [0, 1], float64."""
        return self.images.double() / 2 + 0.5

    def pairs(self, what: str) -> tuple[Tensor, Tensor]:
        """Images and references in [0, 1], float64; refused where there are no references."""
        if self.references is None:
            raise BadInput(f"references: None, and {what} compares with them; give Pictures(images, references=...)")
        return self.unit, self.references.double() / 2 + 0.5

    def said(self, what: str) -> Sequence[Any]:
        """The captions; refused where there are none."""
        if not self.captions:
            raise BadInput(f"captions: none, and {what} compares with them; give Pictures(images, captions=...)")
        return self.captions

    def region(self, name: str, what: str) -> Tensor:
        """(B, 1, H, W) float64, 1 on the pixels that count: "all", "inside" or "outside" of the mask."""
        if name == "all":
            n, _, *size = self.images.shape
            return torch.ones(n, 1, *size, dtype=torch.float64)
        if self.mask is None:
            raise BadInput(f"mask: None, and {what} measures {name} of one; give Pictures(images, mask=...)")
        return (self.mask if name == "inside" else ~self.mask).double()
