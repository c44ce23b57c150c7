"""A residual multilayer perceptron for states that are short vectors: points, small pictures, rows of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.family import Family
from ..core.site import Site


class ResidualBlock(nn.Module):
    """h + W2 silu(W1 norm(h) + W3 temb)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.time, self.outer = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)

    def forward(self, h: Tensor, temb: Tensor) -> Tensor:
        return h + self.outer(nn.functional.silu(self.inner(self.norm(h)) + self.time(temb)))


class MLP(nn.Module):
    """A whole state in, a value of its shape out; or logits of every entry where states are categories.

    Args:
        shape: of one state.
        width: of the hidden layers, even.
        depth: residual blocks.
        categories: K where states are integers below K; None where they are numbers.
    """

    def __init__(self, shape: Sequence[int], width: int = 256, depth: int = 3, categories: int | None = None):
        super().__init__()
        self.shape, self.categories = tuple(shape), categories
        entries = math.prod(shape)
        embedded = entries if categories is None else entries * 8
        self.tokens = None if categories is None else nn.Embedding(categories, 8)
        self.steps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(width, width)
        self.first = nn.Linear(embedded, width)
        self.blocks = nn.ModuleList([ResidualBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, entries * (categories or 1))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """(B, *shape) or (B, *shape, K) of states (B, *shape) at timesteps (B,)."""
        temb = nn.functional.silu(self.time(self.steps(timestep)))
        h = self.first((x if self.tokens is None else self.tokens(x)).flatten(1))
        for block in self.blocks:
            h = block(h, temb)
        out = self.last(self.norm(h))
        return out.view(x.shape if self.categories is None else (*x.shape, self.categories))


class MLPFamily(Family):
    """The family of `MLP`; it reads no condition."""

    name = "MLP"

    def accepts(self, net: nn.Module) -> bool:
        return isinstance(net, MLP)

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        return net(x, timestep.to(x.device, torch.float32))

    def blocks(self, net: Any) -> Iterator[Site]:
        for k, block in enumerate(net.blocks):
            streams = {"image": "h", "temb": "temb"}
            yield Site(f"blocks.{k}", block, "block", "feedforward", "body", (k + 1) / (len(net.blocks) + 1), streams)

    def shape(self, net: Any) -> tuple[int, ...]:
        return net.shape
