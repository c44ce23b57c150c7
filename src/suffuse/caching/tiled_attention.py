"""Attention without its matrix: partly fused and tiled softmax."""

from __future__ import annotations

import torch
from torch import Tensor


def partially_fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v with the normalisation folded into the product: (exp(S - max S) v) / sum exp(S - max S).

    One matrix of scores, where softmax apart from the product has two.

    Args:
        q, k, v: (B, heads, tokens, width).
        scale: of the scores.
    """
    s = q @ k.mT
    top = s.amax(-1, keepdim=True)
    e = s.sub_(top).mul_(scale).exp_()  # the maximum of scores is that of scaled scores, for scale > 0
    return (e @ v).div_(e.sum(-1, keepdim=True))


def tiled(q: Tensor, k: Tensor, v: Tensor, scale: float, queries: int = 256, keys: int = 1024) -> Tensor:
    """softmax(scale q k^T) v in tiles of queries and keys, with running maximum and sum (online softmax).

    Memory grows with the tile and not with the square of the tokens.

    Args:
        q, k, v: (B, heads, tokens, width).
        scale: of the scores.
        queries, keys: sides of a tile.

    Reference: Milakov and Gimelshein, Online normalizer calculation for softmax, 1805.02867; Dao et al.,
    FlashAttention, 2205.14135.
    """
    out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
    for first in range(0, q.shape[2], queries):
        rows = slice(first, first + queries)
        part = q[:, :, rows] * scale
        top = part.new_full((*part.shape[:-1], 1), -torch.inf)
        total, mixed = torch.zeros_like(top), torch.zeros_like(out[:, :, rows])
        for start in range(0, k.shape[2], keys):
            columns = slice(start, start + keys)
            s = part @ k[:, :, columns].mT
            new = torch.maximum(top, s.amax(-1, keepdim=True))
            e, shrink = s.sub_(new).exp_(), (top - new).exp_()
            total = total * shrink + e.sum(-1, keepdim=True)
            mixed = mixed * shrink + e @ v[:, :, columns]
            top = new
        out[:, :, rows] = mixed / total
    return out
