"""Networks that turn a picture into the vector in which sets of pictures are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from suffuse.core.files import sha256
from suffuse.zoo.reader import BUNDLED, Reader


class Features(ABC):
    """A feature function with a name that says which weights and which resize it uses. A frozen dataclass.

    Figures in features of different names are not comparable, and metrics refuse to mix them.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Network, weights (start of their SHA-256) and resize."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """(B, d) from images (B, 3, H, W) in [-1, 1]."""


@lru_cache(maxsize=2)
def load_reader(folder: str | None) -> tuple[Reader, str]:
    """A saved reader, the bundled one for None, and the start of its weights' SHA-256."""
    path = Path(folder) if folder else BUNDLED
    return Reader.load(path), sha256(path / "model.safetensors")[:8]


@dataclass(frozen=True)
class ReaderFeatures(Features):
    """The reader's pooled trunk: mean and maximum of each channel, d = 128 for the bundled one.

    Args:
        folder: of a saved reader; None is the bundled one.
    """

    folder: str | None = None

    @property
    def name(self) -> str:
        reader, digest = load_reader(self.folder)
        side = reader.config.resolution
        return f"reader {digest} at {side}x{side} (bilinear, antialiased)"

    def __call__(self, images: Tensor) -> Tensor:
        reader, _ = load_reader(self.folder)
        with torch.no_grad():
            return reader.read(images).features
