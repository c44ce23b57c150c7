"""What is known about one architecture: how its networks are called and where their blocks are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from .cond import Cond
from .site import Site, Sites, layers


class Family(ABC):
    """Knowledge of one architecture family; stateless."""

    name: str
    reads: tuple[str, ...] = ()
    """Cond entries it understands."""

    @abstractmethod
    def accepts(self, net: nn.Module) -> bool:
        """True for networks of this family."""

    @abstractmethod
    def call(self, net: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """The network's output for states x (B, ...) at timesteps (B,), conditions by name."""

    @abstractmethod
    def blocks(self, net: nn.Module) -> Iterator[Site]:
        """Block, unit and attention sites in the order of execution."""

    def sites(self, net: nn.Module) -> Sites:
        """All sites: root, blocks, units, attention, then every linear, convolution and norm."""
        return Sites([Site("", None, "root"), *self.blocks(net), *layers(net)])

    def shape(self, net: Any) -> tuple[int, ...]:
        """(C, H, W) of one state at the network's own resolution."""
        size = net.config.sample_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        return (net.config.in_channels, *size)
