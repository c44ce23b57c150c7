"""What is known about one architecture: how its networks are called and where their blocks are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
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
        grid = self.shape(net)[1:]
        inside = _placed(self.blocks(net), grid, self.patch(net))
        return Sites([Site("", None, "root", grid=grid), *inside, *layers(net)])

    def shape(self, net: Any) -> tuple[int, ...]:
        """(C, H, W) of one state at the network's own resolution; (C,) where its configuration does not say it."""
        size = net.config.sample_size
        size = (size, size) if isinstance(size, int) else tuple(size or ())
        return (net.config.in_channels, *size)

    def patch(self, net: Any) -> int:
        """Side of the squares of a state that become one token."""
        return 1


def _placed(sites: Iterable[Site], grid: tuple[int, ...], patch: int) -> Iterator[Site]:
    """Sites in the order of execution with the grid of the image that enters them."""
    above: list[tuple[int, ...]] = []
    for site in sites:
        yield replace(site, grid=grid)
        if site.kind == "unit" and site.role == "in":
            grid = tuple(side // patch for side in grid)
        elif site.kind == "unit" and site.role == "down":
            above.append(grid)
            grid = tuple((side + 1) // 2 for side in grid)
        elif site.kind == "unit" and site.role == "up":
            grid = above.pop()
