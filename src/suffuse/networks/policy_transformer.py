"""The transformer of diffusion policies: chunks of actions that attend to time and observations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from ..backbones.inputs import need
from ..backbones.transformer import transformer_sites
from ..core.cond import Cond
from ..core.family import Family
from ..core.site import Site


class PolicyTransformer(nn.Module):
    """A chunk of actions in, a value of its shape out: a token for each action; layers of self-attention, attention to
    one token of time and one for each observation, and a feed-forward.

    Args:
        actions: (length of a chunk, numbers of an action).
        observations: (how many, numbers of one).
        width: of a token.
        depth: layers.
        heads: of attention.

    Reference: Chi et al., Diffusion Policy: Visuomotor Policy Learning via Action Diffusion, 2303.04137.
    """

    def __init__(
        self, actions: tuple[int, int], observations: tuple[int, int], width: int = 64, depth: int = 4, heads: int = 4
    ):
        super().__init__()
        self.shape = tuple(actions)
        self.entry, self.told = nn.Linear(actions[1], width), nn.Linear(observations[1], width)
        self.steps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(width, width)
        self.places = nn.Parameter(0.02 * torch.randn(actions[0], width))
        self.told_places = nn.Parameter(0.02 * torch.randn(observations[0], width))
        self.layers = nn.ModuleList(
            [BasicTransformerBlock(width, heads, width // heads, cross_attention_dim=width) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(width)
        self.exit = nn.Linear(width, actions[1])

    def forward(self, x: Tensor, timestep: Tensor, observation: Tensor) -> Tensor:
        """(B, length, numbers) of actions of this shape, timesteps (B,) and observations (B, how many, numbers)."""
        memory = torch.cat([self.time(self.steps(timestep))[:, None], self.told(observation) + self.told_places], 1)
        h = self.entry(x) + self.places
        for layer in self.layers:
            h = layer(h, encoder_hidden_states=memory)
        return self.exit(self.norm(h))


class PolicyTransformerFamily(Family):
    """The family of `PolicyTransformer`.

    Cond entry: "observation" (B, how many, numbers).
    """

    name = "PolicyTransformer"
    reads = ("observation",)

    def accepts(self, net: nn.Module) -> bool:
        return isinstance(net, PolicyTransformer)

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        observation = need(cond, "observation", "the last observations (B, how many, numbers)")
        return net(x, timestep.to(x.device, torch.float32), observation.to(x))

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        streams = {"image": "hidden_states", "text": "encoder_hidden_states"}
        return transformer_sites("entry", net, {"layers": ("image",)}, "exit", streams)

    def shape(self, net: Any) -> tuple[int, ...]:
        return net.shape
