"""Networks of which nothing is known but how they are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.family import Family
from ..core.site import Site


class Plain(Family):
    """Any module, called as net(x, timestep, **entries), which returns a tensor shaped like x.

    Its layers are sites, so that adapters act on it; methods that need blocks or attention refuse it.

    Args:
        reads: entries of the condition that it is told, by the names of its arguments.
    """

    name = "this module"

    def __init__(self, reads: tuple[str, ...] = ()):
        self.reads = tuple(reads)

    def accepts(self, net: nn.Module) -> bool:
        return True

    def call(self, net: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        for name in self.reads:
            if name not in cond:
                raise BadInput(f"cond[{name!r}]: this network is told it; give cond=Cond({{{name!r}: ...}})")
        return net(x, timestep.to(x.device, torch.float32), **{name: cond[name] for name in self.reads})

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        return iter(())

    def shape(self, net: Any) -> tuple[int, ...]:
        return ()
