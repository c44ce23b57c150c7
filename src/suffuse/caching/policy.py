"""Reuse of outputs between steps, as one table: site x step -> compute or reuse. Methods only differ in the table."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.call import Call
from ..core.patch import Patch
from ..core.site import Site
from ..core.step import Step


class CachePolicy(Patch):
    """A site either computes and remembers, or returns what it last computed for the same rows.

    A row that was never computed is computed, whatever the table says. Outside of a run nothing is cached.
    """

    @abstractmethod
    def fresh(self, site: Site, at: Step) -> bool:
        """Whether this site computes at this step."""

    def kept(self, site: Site) -> bool:
        """Whether the output is read again at all. Where not, only its shape is kept."""
        return True

    def around(self, call: Call) -> Any:
        if call.at is None:
            return call()
        if not self.fresh(call.site, call.at):
            return call.last()
        out = call()
        call.memory["last"] = out if self.kept(call.site) else pytree.tree_map(hollow, out)
        return out


def hollow(v: Any) -> Any:
    """A tensor of the same shape that takes no memory, for outputs that nothing reads."""
    return v.new_zeros(()).expand(v.shape) if isinstance(v, Tensor) else v


class Recorder(Patch):
    """Keeps the output of chosen sites at every step, for choosing a table; `features(memory)` reads them back."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self.kept: dict[tuple[str, int], Tensor] = {}

    def sites(self, net: Any) -> list[Site]:
        return [s for s in net if s.name in self.names and s.kind in ("unit", "block")]

    def around(self, call: Call) -> Any:
        out = call()
        if call.at is not None:
            first = out[0] if isinstance(out, (tuple, list)) else out
            self.kept[call.site.name, call.at.i] = first.detach().clone()
        return out

    def distances(self, name: str) -> Tensor:
        """(n, n) relative L2 distance between the outputs of a site at steps i and j."""
        steps = sorted(i for s, i in self.kept if s == name)
        flat = torch.stack([self.kept[name, i].flatten().double() for i in steps])
        return torch.cdist(flat, flat) / flat.norm(dim=1)[:, None]
