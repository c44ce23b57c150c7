"""Embeddings as prompts: what each part of a picture is to show, said by the features of another picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.cond import Cond
from ..core.conditioner import Piece, Size
from ..core.errors import BadInput
from ..core.prompt import Encoded, PromptValue

__all__ = ["EmbeddingGrid", "Embeddings", "Encoded", "embeddings_of"]


@dataclass(frozen=True, eq=False)
class EmbeddingGrid(PromptValue):
    """A prompt: one embedding for each part of a picture, parts being as large as the network's own pictures.

    Args:
        values: (rows, columns, d) of any length other than 0.

    Raises:
        BadInput: values of another shape.

    Example:
        >>> model.generate(EmbeddingGrid(embeddings_of(reference, features, side=64)[0]), height=256, width=256,
        ...                guidance=RepresentationGuided() | CFG(4))
    """

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or not self.values.is_floating_point():
            shape = tuple(self.values.shape)
            raise BadInput(f"values: {self.values.dtype} of shape {shape}; give floats (rows, columns, d)")


class Embeddings(Piece):
    """ "text": embeddings of length 1, (B, 1, d) of pictures of one part, (B, rows, columns, d) of larger ones.

    No prompt is zeros. The linear layer to the width of cross-attention belongs to the network and is trained with it
    (`encoder_hid_dim=d, encoder_hid_dim_type="text_proj"` of diffusers' UNets).

    Args:
        width: d.
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.register_buffer("_device", torch.zeros(0), persistent=False)

    _device: Tensor

    def forward(self, prompts: Sequence[Any], cond: Cond, size: Size) -> Cond:
        grids = [self._normalised(p) for p in prompts if p is not None]
        shapes = {tuple(g.shape[:2]) for g in grids} or {(1, 1)}
        if len(shapes) > 1:
            raise BadInput(f"prompt: grids of {sorted(shapes)} parts in one run; give grids of one size")
        none = torch.zeros(*shapes.pop(), self.width, device=self._device.device)
        left = iter(grids)
        text = torch.stack([none if p is None else next(left) for p in prompts])
        return cond | {"text": text[:, 0] if text.shape[1:3] == (1, 1) else text}

    def _normalised(self, prompt: Any) -> Tensor:
        if not isinstance(prompt, EmbeddingGrid) or prompt.values.shape[2] != self.width:
            given = tuple(prompt.values.shape) if isinstance(prompt, EmbeddingGrid) else f"{prompt!r:.60}"
            raise BadInput(f"prompt: {given}; this model takes EmbeddingGrid(values) of {self.width} numbers each")
        return F.normalize(prompt.values.to(self._device.device), dim=-1)


def embeddings_of(pictures: Tensor, features: Callable[[Tensor], Tensor], side: int) -> Tensor:
    """(B, rows, columns, d): embeddings of the parts of pictures.

    Args:
        pictures: (B, 3, H, W) in [-1, 1].
        features: (N, 3, side, side) -> (N, d), such as those of `suffuse.evaluation`.
        side: of a part in pixels, of which H and W are multiples.

    Raises:
        BadInput: sides that are no multiples.
    """
    n, channels, height, width = pictures.shape
    if height % side or width % side:
        raise BadInput(f"side={side}: pictures of {height}x{width} are no whole number of parts; give another side")
    parts = pictures.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)
    return features(parts.reshape(-1, channels, side, side)).view(n, height // side, width // side, -1)
