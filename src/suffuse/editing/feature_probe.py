"""Decoder features of a denoiser, with gradient, at places given in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.call import Call
from ..core.cond import Cond
from ..core.errors import Refused
from ..core.patch import Patch
from ..core.predict import Predict
from ..core.prediction import Affine
from ..core.site import Site, Sites
from ..core.value import Coef

PROBED = "features"
"""Path of evaluations that look at features; what couples branches leaves them alone."""


@dataclass(frozen=True, eq=False)
class FeatureProbe(Patch):
    """Keeps what decoder blocks return, (B, C, h, w) each, and their gradient; a later call replaces them.

    Args:
        blocks: numbers of the blocks of the decoder, 0 next to the middle.

    Raises:
        Refused: a network without such blocks.

    Example:
        >>> probe = FeatureProbe((1, 2))
        >>> denoiser.with_(probe)(x, 0.3, cond)
        >>> bilinear(probe.maps[0], torch.tensor([[[20.5, 31.0]]]), (64, 64))  # (B, 1, C) at x = 20.5, y = 31
    """

    blocks: tuple[int, ...] = (1, 2)
    found: dict[int, Tensor] = field(default_factory=dict)

    def sites(self, net: Sites) -> Sequence[Site]:
        decoder = [s for s in net.blocks if s.stage == "up"]
        if not all(0 <= k < len(decoder) for k in self.blocks):
            raise Refused(
                f"FeatureProbe(blocks={self.blocks}): this network has {len(decoder)} decoder blocks; "
                f"{f'give numbers below {len(decoder)}' if decoder else 'use a UNet'}"
            )
        return [decoder[k] for k in self.blocks]

    def around(self, call: Call) -> Any:
        out = call()
        self.found[int(call.site.name.rpartition(".")[2])] = out
        return out

    def look(self, predict: Predict, x: Tensor, t: Coef, cond: Cond) -> Affine:
        """The plain conditional prediction, of whose evaluation the features are kept."""
        return predict.plain.with_(self)(x, t, cond, PROBED)

    @property
    def maps(self) -> list[Tensor]:
        """The features of each block, in the order of `blocks`."""
        return [self.found[k] for k in self.blocks]

    def joined(self, size: tuple[int, int]) -> Tensor:
        """(B, C, *size): the features of all blocks, resized and one after the other."""
        return torch.cat([F.interpolate(v, size, mode="bilinear", align_corners=False) for v in self.maps], 1)


def bilinear(features: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, ..., C): features (B, C, h, w) at points (B, ..., 2), x and y in pixels of a picture of `size` (H, W).

    Pixel k spans k to k + 1. Beyond the border features are those at the border.
    """
    return _sampled(features, points, size, "bilinear", "border")


def nearest(values: Tensor, points: Tensor, size: tuple[int, int], beyond: str = "border") -> Tensor:
    """(B, ..., C): the entry of `values` (B, C, h, w) nearest to each point, such as noise; `beyond` "zeros" is 0."""
    return _sampled(values, points, size, "nearest", beyond)


def centres(height: int, width: int, size: tuple[int, int]) -> Tensor:
    """(height width, 2): centres of the cells of a grid over the picture, x and y in pixels, row by row."""
    y, x = ((torch.arange(n) + 0.5) * (length / n) for n, length in zip((height, width), size, strict=True))
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], 1)


def _sampled(values: Tensor, points: Tensor, size: tuple[int, int], mode: str, beyond: str) -> Tensor:
    length = torch.tensor([size[1], size[0]], dtype=points.dtype, device=points.device)
    grid = (2.0 * points / length - 1.0).flatten(1, -2)[:, None].to(values)
    out = F.grid_sample(values, grid, mode=mode, padding_mode=beyond, align_corners=False)[:, :, 0]
    return out.transpose(1, 2).unflatten(1, points.shape[1:-1])
