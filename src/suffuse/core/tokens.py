"""Pictures as tokens: squares of p x p entries, in rows, each with its rows, columns and channels (DiT's order)."""

from __future__ import annotations

from torch import Tensor


def to_patches(x: Tensor, p: int) -> Tensor:
    """(B, H/p W/p, p p C) of pictures (B, C, H, W): a token for each square."""
    b, c, h, w = x.shape
    return x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, p * p * c)


def to_picture(tokens: Tensor, p: int, c: int, h: int, w: int) -> Tensor:
    """The inverse of `to_patches`."""
    return tokens.reshape(-1, h // p, w // p, p, p, c).permute(0, 5, 1, 3, 2, 4).reshape(-1, c, h, w)
