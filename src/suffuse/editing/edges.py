"""Canny's edges of pictures, as control networks read them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Rows down and columns to the right of the next pixel, for gradients at 0, 45, 90 and 135 degrees."""


def canny(pixels: Tensor, low: float = 100.0, high: float = 200.0) -> Tensor:
    """(B, 3, H, W) in {0, 1}: thin lines where brightness changes by more than `high`, and what hangs on them by `low`.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].
        low, high: thresholds of |d_x| + |d_y| by Sobel's 3 x 3 kernels, for brightness from 0 to 255.

    Example:
        >>> canny(to_tensor("room.png"))

    Reference: Canny, A Computational Approach to Edge Detection, 1986.

    Differs from the paper: without a blur ahead, as is usual for control networks.
    """
    grey = (pixels * pixels.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True) * 127.5 + 127.5
    dx, dy = sobel(grey)
    size = dx.abs() + dy.abs()
    thin = (size > low) & _highest(size, dx, dy)
    strong = thin & (size > high)
    found = [_hanging(a, b) for a, b in zip(thin[:, 0], strong[:, 0], strict=True)]
    return torch.stack(found)[:, None].expand(-1, 3, -1, -1).to(pixels)


def sobel(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives (B, 1, H, W) to the right and downwards, times 8."""
    x = grey.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    dx, dy = F.conv2d(F.pad(grey, [1] * 4, mode="replicate"), torch.stack([x, x.T])[:, None]).split(1, 1)
    return dx, dy


def _highest(size: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Where no pixel ahead or behind, along the gradient, has a larger one; of two that are equal, the first."""
    sector = (torch.atan2(dy, dx) / (torch.pi / 4)).round().long() % 4
    padded, (height, width) = F.pad(size, [1] * 4), size.shape[-2:]

    def shifted(down: int, right: int) -> Tensor:
        return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    each = [(size > shifted(-a, -b)) & (size >= shifted(a, b)) for a, b in NEIGHBOURS]
    return torch.stack(each).gather(0, sector[None])[0]


def _hanging(thin: Tensor, strong: Tensor) -> Tensor:
    """Lines (H, W) of which some pixel is strong."""
    lines, count = ndimage.label(thin.cpu().numpy(), structure=[[1, 1, 1]] * 3)
    named = torch.from_numpy(lines).long().to(thin.device)
    kept = torch.zeros(count + 1, dtype=torch.bool, device=thin.device)
    kept[named[strong]] = True
    return kept[named]
