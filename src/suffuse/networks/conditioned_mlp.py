"""A residual multilayer perceptron that is told numbers about the state, such as the reward it should have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.family import Family
from ..core.site import Site
from .residual_mlp import MLP


class ConditionedMLP(nn.Module):
    """`MLP` whose time embedding is moved by a few numbers.

    Args:
        shape: of one state.
        width, depth: of the MLP.
        numbers: how many it is told.
    """

    def __init__(self, shape: Sequence[int], width: int = 256, depth: int = 3, numbers: int = 1):
        super().__init__()
        self.shape, self.numbers = tuple(shape), numbers
        self.body = MLP(shape, width, depth)
        self.told = nn.Sequential(nn.Linear(numbers, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, timestep: Tensor, value: Tensor) -> Tensor:
        """(B, *shape) of states (B, *shape), timesteps (B,) and numbers (B, numbers)."""
        body = self.body
        temb = nn.functional.silu(body.time(body.steps(timestep)) + self.told(value))
        h = body.first(x.flatten(1))
        for block in body.blocks:
            h = block(h, temb)
        return body.last(body.norm(h)).view(x.shape)


class ConditionedMLPFamily(Family):
    """The family of `ConditionedMLP`.

    Cond entry: "value" (B, numbers).
    """

    name = "ConditionedMLP"
    reads = ("value",)

    def accepts(self, net: nn.Module) -> bool:
        return isinstance(net, ConditionedMLP)

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        if "value" not in cond or cond["value"].shape[1:] != (net.numbers,):
            raise BadInput(f"cond['value']: this network is told (B, {net.numbers}) numbers; give them")
        return net(x, timestep.to(x.device, torch.float32), cond["value"].to(x))

    def blocks(self, net: Any) -> Iterator[Site]:
        for k, block in enumerate(net.body.blocks):
            streams, depth = {"image": "h", "temb": "temb"}, (k + 1) / (len(net.body.blocks) + 1)
            yield Site(f"body.blocks.{k}", block, "block", "feedforward", "body", depth, streams)

    def shape(self, net: Any) -> tuple[int, ...]:
        return net.shape
