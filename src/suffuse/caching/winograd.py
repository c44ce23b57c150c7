"""Convolutions of 3 x 3 with a quarter of the multiplications: Winograd's F(4x4, 3x3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

B = torch.tensor(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
     [0, 4, 0, -5, 0, 1]], dtype=torch.float64,
)  # fmt: skip
"""B^T, 6 x 6: of the input."""

G = torch.tensor(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
     [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]], dtype=torch.float64,
)  # fmt: skip
"""6 x 3: of the kernel."""

A = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
)
"""A^T, 4 x 6: of the output."""


def transformed(weight: Tensor) -> Tensor:
    """(36, out, in): G g G^T of kernels (out, in, 3, 3), which belongs to the weights alone."""
    g = G.to(weight.device)
    u = (g @ weight.double() @ g.T).to(weight)
    return u.permute(2, 3, 0, 1).reshape(36, *weight.shape[:2])


def winograd(x: Tensor, u: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, out, H, W): the convolution of x (B, in, H, W) with padding 1 and stride 1, from `transformed` kernels.

    Y = A^T [ (G g G^T) * (B^T d B) ] A on tiles d of 6 x 6 that overlap by 2: 36 multiplications for 16 outputs of
    every pair of channels, where the convolution itself has 144. Sides that 4 does not divide are padded and cut.

    Reference: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 1509.09308.
    """
    (b, c, height, width), (_, out, _) = x.shape, u.shape
    rows, columns = -(-height // 4), -(-width // 4)
    padded = F.pad(x, (1, 4 * columns - width + 1, 1, 4 * rows - height + 1))
    tiles = padded.unfold(2, 6, 4).unfold(3, 6, 4)  # (B, in, rows, columns, 6, 6)
    from_left, to_left = (m.to(x) for m in (B, A))
    d = from_left @ tiles @ from_left.T
    v = d.permute(4, 5, 1, 0, 2, 3).reshape(36, c, b * rows * columns)
    m = (u @ v).view(6, 6, out, b, rows, columns).permute(3, 2, 4, 5, 0, 1)
    y = (to_left @ m @ to_left.T).permute(0, 1, 2, 4, 3, 5).reshape(b, out, 4 * rows, 4 * columns)
    y = y[..., :height, :width]
    return y.contiguous() if bias is None else y + bias[:, None, None]
