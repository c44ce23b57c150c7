"""Large pictures decoded by overlapping windows that fade into each other, row after row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.codec import Codec
from ..core.cond import Cond
from ..core.denoiser import EMPTY
from ..core.errors import BadInput
from ..core.law import Draw
from ..resolution.tiles import Bell, Weight, starts


class BlendedWindows(Codec):
    """p(z) = sum_k W D(z[F_k]) / sum_k W over overlapping windows F_k, each decoded by itself.

    Memory is that of one row of windows, however high the picture: see `rows`.

    Args:
        codec: decodes a window; encoding is its own.
        window: side of a window in entries of the state.
        stride: from one window to the next, in entries.
        weight: of the pixels of a window; the paper's exp(-u^2 / 0.8^2) by default.

    Raises:
        BadInput: a stride of less than 1 or more than the window.

    Example:
        >>> large = model.with_codec(BlendedWindows(model.codec)).generate("a red circle", height=256, width=256)

    Reference: Graikos et al., Learned representation-guided diffusion models for large-image generation, 2312.07330.
    """

    def __init__(self, codec: Codec, window: int = 64, stride: int = 16, weight: Weight = Bell(0.8 / 2**0.5)):
        super().__init__()
        if not 1 <= stride <= window:
            raise BadInput(f"window={window}, stride={stride}: give a stride of 1 to the window")
        self.codec, self.window, self.stride, self.weight = codec, window, stride, weight
        self.space = codec.space

    @property
    def components(self) -> Mapping[str, Any]:
        return self.codec.components

    def encode(self, data: Tensor, noise: Draw | None = None) -> tuple[Tensor, Cond]:
        return self.codec.encode(data, noise)

    def decode(self, value: Tensor, cond: Cond = EMPTY) -> Tensor:
        return torch.cat(list(self.rows(value, cond)), -2)

    def rows(self, value: Tensor, cond: Cond = EMPTY) -> Iterator[Tensor]:
        """Bands (B, 3, h, W) of the picture of states (B, C, H', W'), from the top, each as soon as it is finished.

        Args:
            value: states.
            cond: what decoding uses, the same for all windows.
        """
        k, (height, width) = self.space.factor, value.shape[-2:]
        tall, wide = min(self.window, height), min(self.window, width)
        tops, lefts = (starts(n, side, self.stride) for n, side in ((height, tall), (width, wide)))
        weight = self.weight(tall * k, wide * k).to(value)
        total, norm = (value.new_zeros((n, c, tall * k, width * k)) for n, c in ((len(value), 3), (1, 1)))
        for top, following in zip(tops, [*tops[1:], height], strict=True):
            for left in lefts:
                columns = slice(left * k, (left + wide) * k)
                part = self.codec.decode(value[..., top : top + tall, left : left + wide], cond)
                total[..., columns] += weight * part
                norm[..., columns] += weight
            done = (following - top) * k
            yield total[..., :done, :] / norm[..., :done, :]
            total, norm = (torch.cat([v[..., done:, :], torch.zeros_like(v[..., :done, :])], -2) for v in (total, norm))
