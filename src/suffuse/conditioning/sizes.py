"""The picture's size as a condition: SDXL's time ids, PixArt's resolution and aspect ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..core.cond import Cond
from ..core.conditioner import Piece, Size


class TimeIds(Piece):
    """ "time_ids" (B, 6): original height and width, top and left of the crop (0, 0), target height and width."""

    tells = False

    def forward(self, prompts: Sequence[Any], cond: Cond, size: Size) -> Cond:
        ids = torch.tensor([(*size, 0, 0, *size)] * len(prompts), dtype=torch.float32, device=cond["text"].device)
        return cond | {"time_ids": ids}


class Resolution(Piece):
    """ "resolution" (B, 2), height and width in pixels, and "aspect_ratio" (B, 1), height / width."""

    tells = False

    def forward(self, prompts: Sequence[Any], cond: Cond, size: Size) -> Cond:
        device = cond["text"].device
        resolution = torch.tensor([size] * len(prompts), dtype=torch.float32, device=device)
        return cond | {"resolution": resolution, "aspect_ratio": resolution[:, :1] / resolution[:, 1:]}
