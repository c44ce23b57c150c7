"""Keeping the cross-attention maps of one network call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..core.call import Call
from ..core.errors import Refused
from ..core.patch import Patch
from ..core.site import Site, Sites
from .branches import is_null


@dataclass(frozen=True, eq=False)
class AttentionMaps(Patch):
    """Keeps probabilities (B, heads, queries, tokens) of the conditional rows, by site; a later call replaces them.

    Args:
        most: sites with more queries are left out.
    """

    most: int
    found: dict[str, Tensor] = field(default_factory=dict)

    def sites(self, net: Sites) -> Sequence[Site]:
        if not net.attention("cross"):
            raise Refused("attention maps of words: this network has no cross-attention; use a UNet or PixArt")
        return net.attention("cross")

    def probs(self, call: Call, p: Tensor) -> Tensor:
        rows = [i for i, row in enumerate(call.rows) if not is_null(row)]
        if rows and p.shape[2] <= self.most:
            self.found[call.site.name] = p[rows]
        return p
