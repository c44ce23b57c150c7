"""The noise prompt network: from noise and text to the noise that suits the text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadInput


class NPNet(nn.Module):
    """x' = svd(x) + (2 sigmoid(alpha) - 1) e + beta residual(x + e)  with  e = AdaGroupNorm(x, text).

    alpha = beta = 0 at the start, so that only the singular values are moved at first.

    Args:
        shape: (C, H, W) of one state.
        text: (L, D), tokens and width of a text.
        width, depth: of the transformer of the residual branch.

    Differs from the paper: a transformer on patches of 2 x 2, trained with the rest, takes the place of the pretrained
    Swin-Tiny.
    """

    def __init__(self, shape: Sequence[int], text: Sequence[int], width: int = 64, depth: int = 2):
        super().__init__()
        self.shape, self.text, self.width, self.depth = tuple(shape), tuple(text), width, depth
        if len(self.shape) != 3 or self.shape[1] % 2 or self.shape[2] % 2:
            raise BadInput(f"NPNet(shape={self.shape}): must be (C, H, W) with even H and W")
        if len(self.text) != 2:
            raise BadInput(f"NPNet(text={self.text}): must be (tokens, width)")
        self.singular = SingularValues(self.shape)
        self.embed = AdaGroupNorm(self.shape[0], math.prod(self.text))
        self.residual = Residual(self.shape, width, depth)
        self.alpha, self.beta = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    @property
    def config(self) -> Mapping[str, Any]:
        """The arguments that build it again."""
        return {"shape": self.shape, "text": self.text, "width": self.width, "depth": self.depth}

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """x (B, C, H, W) noise, text (B, L, D) token states -> (B, C, H, W)."""
        if tuple(x.shape[1:]) != self.shape or tuple(text.shape[1:]) != self.text:
            raise BadInput(
                f"NPNet: a state of {tuple(x.shape[1:])} with a text of {tuple(text.shape[1:])}; this network is for "
                f"{self.shape} with {self.text}: fit one for this model and size"
            )
        e = self.embed(x, text.flatten(1))
        return self.singular(x) + (2.0 * torch.sigmoid(self.alpha) - 1.0) * e + self.beta * self.residual(x + e)


class SingularValues(nn.Module):
    """x = U S V^T with other singular values: s' = s + g(mean attend(f_1(U^T) + f_2(V^T) + f_3(s))).

    The channels of x are laid out side by side as one matrix, for 4 of them 2 x 2. The sign of each pair of singular
    vectors, which is arbitrary, is fixed: the largest entry of u is positive.

    Args:
        shape: (C, H, W).
        narrow, wide: hidden units of f_1 and f_2, and of g.
    """

    def __init__(self, shape: Sequence[int], narrow: int = 64, wide: int = 1024):
        super().__init__()
        c, h, w = shape
        self.tall = max(k for k in range(1, math.isqrt(c) + 1) if c % k == 0)
        rows, columns = self.tall * h, c // self.tall * w
        k = min(rows, columns)
        self.left, self.right, self.values = _mlp(rows, narrow, k), _mlp(columns, narrow, k), nn.Linear(k, k)
        self.attention = nn.MultiheadAttention(k, math.gcd(k, 8), bias=False, batch_first=True)
        self.out = _mlp(k, wide, k)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tiles = x.reshape(b, self.tall, c // self.tall, h, w)
        u, s, vt = torch.linalg.svd(tiles.transpose(2, 3).reshape(b, self.tall * h, -1), full_matrices=False)
        sign = torch.gather(u, 1, u.abs().argmax(1, keepdim=True)).sign()  # (b, 1, k)
        u, vt = u * sign, vt * sign.mT
        f = self.left(u.mT) + self.right(vt) + self.values(s)[:, None]
        s = s + self.out(self.attention(f, f, f, need_weights=False)[0].mean(1))
        matrix = (u * s[:, None]) @ vt
        return matrix.reshape(b, self.tall, h, c // self.tall, w).transpose(2, 3).reshape(b, c, h, w)


class AdaGroupNorm(nn.Module):
    """norm(x) (1 + scale) + shift, with scale and shift of each channel linear in an embedding; one group.

    Args:
        channels: C of x.
        width: of the embedding.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.linear, self.norm = nn.Linear(width, 2 * channels), nn.GroupNorm(1, channels, eps=1e-6, affine=False)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.linear(embedding)[:, :, None, None].chunk(2, 1)
        return self.norm(x) * (1.0 + scale) + shift


class Residual(nn.Module):
    """A transformer on patches of 2 x 2 of the state, with 1 x 1 convolutions before and after.

    Args:
        shape: (C, H, W).
        width, depth: of the transformer.
    """

    def __init__(self, shape: Sequence[int], width: int, depth: int):
        super().__init__()
        c, h, w = shape
        self.into, self.out = nn.Conv2d(4 * c, width, 1), nn.Conv2d(width, 4 * c, 1)
        self.place = nn.Parameter(0.02 * torch.randn(1, width, h // 2, w // 2))
        layer = nn.TransformerEncoderLayer(
            width, math.gcd(width, 4), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.into(nn.functional.pixel_unshuffle(x, 2)) + self.place
        seen = self.layers(tokens.flatten(2).mT).mT.reshape(tokens.shape)
        return nn.functional.pixel_shuffle(self.out(seen), 2)


def _mlp(into: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(into, hidden), nn.ReLU(), nn.Linear(hidden, out))
