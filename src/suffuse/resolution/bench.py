"""What is measured of large pictures: borders of tiles that show, and agreement with the small picture they follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def seam_energy(pictures: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """(B,) mean squared difference of neighbours across borders / that of neighbours elsewhere; 1 where none shows.

    Args:
        pictures: (B, C, H, W).
        rows, columns: first row (column) behind each border.
    """
    down, right = pictures.diff(dim=-2).double().square(), pictures.diff(dim=-1).double().square()
    border_rows, border_columns = (
        torch.zeros(down.shape[-2], dtype=torch.bool),
        torch.zeros(right.shape[-1], dtype=torch.bool),
    )
    border_rows[[r - 1 for r in rows]] = True
    border_columns[[c - 1 for c in columns]] = True

    def share(chosen_rows: Tensor, chosen_columns: Tensor) -> Tensor:
        both = torch.cat([down[..., chosen_rows, :].flatten(1), right[..., chosen_columns].flatten(1)], 1)
        return both.mean(1)

    return share(border_rows, border_columns) / share(~border_rows, ~border_columns)


def agreement(pictures: Tensor, small: Tensor) -> Tensor:
    """(B,) PSNR in dB of pictures (B, 3, H, W) in [-1, 1], scaled down, with small ones (B, 3, h, w)."""
    down = F.interpolate(pictures, small.shape[-2:], mode="area")
    error = ((down.clamp(-1, 1) - small.clamp(-1, 1)) / 2).double().square().flatten(1).mean(1)
    return -10.0 * torch.log10(error.clamp(min=1e-10))


def fine(pictures: Tensor) -> Tensor:
    """(B,) energy of differences between neighbouring pixels: how sharp pictures are."""
    parts = [pictures.diff(dim=d).double().square().flatten(1).mean(1) for d in (-2, -1)]
    return parts[0] + parts[1]
