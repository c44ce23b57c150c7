"""Structure distance: whether a picture resembles itself from place to place as its reference does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffuse.core.errors import Damaged
from suffuse.core.files import sha256
from suffuse.core.registry import method

from .features import load_reader
from .pictures import Pictures
from .scores import Scored

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIDE = 224


class PatchFeatures(ABC):
    """A feature of every place of a picture, with a name that says which weights it uses. A frozen dataclass."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Network, layer, weights (start of their SHA-256) and resize."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """(B, places, d) from images (B, 3, H, W) in [-1, 1]."""


@dataclass(frozen=True)
class ReaderPatches(PatchFeatures):
    """The reader's trunk at every cell, a quarter of its resolution along each side.

    Args:
        folder: of a saved reader; None is the bundled one.
    """

    folder: str | None = None

    @property
    def name(self) -> str:
        reader, digest = load_reader(self.folder)
        return f"trunk of reader {digest} at {reader.config.resolution}x{reader.config.resolution}"

    def __call__(self, images: Tensor) -> Tensor:
        reader, _ = load_reader(self.folder)
        side = reader.config.resolution
        with torch.no_grad():
            return reader.trunk(_resized(images.float(), side)).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class DINOKeys(PatchFeatures):
    """Keys of the last self-attention of a DINO ViT, heads side by side, at 224 x 224; the paper's is dino-vitb8.

    Args:
        folder: of a ViT as transformers saves it.

    Reference: Tumanyan et al., Splicing ViT Features for Semantic Appearance Transfer, 2201.00424.
    """

    folder: str

    @property
    def name(self) -> str:
        return f"last keys of {Path(self.folder).name} {_load_vit(self.folder)[1]} at {SIDE}x{SIDE}"

    def __call__(self, images: Tensor) -> Tensor:
        model, _ = _load_vit(self.folder)
        mean, std = (torch.tensor(v)[:, None, None] for v in IMAGENET)
        kept: list[Tensor] = []
        key = [m for name, m in model.named_modules() if name.endswith((".key", ".k_proj"))][-1]
        handle = key.register_forward_hook(lambda module, inputs, out: kept.append(out))
        pixels = (_resized(images.float(), SIDE) / 2 + 0.5 - mean) / std
        try:
            with torch.no_grad():
                model(pixel_values=pixels, interpolate_pos_encoding=True)
        finally:
            handle.remove()
        return kept[0]


@method(tags=("metric",))
@dataclass(frozen=True)
class StructureDistance(Scored):
    """mean_{ij} (S_ij(x) - S_ij(y))^2 with S_ij = cos(f_i, f_j): self-similarity of features at all pairs of places.

    Args:
        features: of every place; the reader's where no DINO weights are present.

    Reference: Tumanyan et al., Splicing ViT Features for Semantic Appearance Transfer, 2201.00424.
    """

    features: PatchFeatures = ReaderPatches()

    @property
    def name(self) -> str:
        return "structure distance"

    @property
    def protocol(self) -> str:
        return f"self-similarity, {self.features.name}"

    def score(self, pictures: Pictures) -> Tensor:
        pictures.pairs(self.name)
        assert pictures.references is not None
        first, second = (_self_similarity(self.features(v)) for v in (pictures.images, pictures.references))
        return (first - second).square().mean((1, 2))


def _self_similarity(features: Tensor) -> Tensor:
    unit = F.normalize(features.double(), dim=2)
    return unit @ unit.transpose(1, 2)


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


@lru_cache(maxsize=1)
def _load_vit(folder: str) -> tuple[Any, str]:
    from transformers import ViTModel

    try:
        model = ViTModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, add_pooling_layer=False)
        return model.eval(), sha256(Path(folder) / "model.safetensors")[:8]
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise Damaged(f"DINOKeys: {folder}: {reason}; give a whole ViT folder with model.safetensors") from error
