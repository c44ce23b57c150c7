"""First-block cache: where the first block hardly changes, the blocks behind it are not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.plugin import Needs
from ..core.registry import method
from ..core.site import Site, Sites
from .skipping import passed


@method(paper="first-block-cache", tags=("saves depth",))
@dataclass(frozen=True)
class FirstBlockCache(Patch):
    """The first block of a transformer always runs; where what it adds has hardly changed, the sum of what all blocks
    behind it added is taken from the last time that they ran.

    With r = F_1(h) - h of the image tokens now, and r' of that time, a row skips the blocks 2 to L where
    mean|r - r'| < threshold mean|r'|, and F_1(h) + (F_L - F_1)' is its output. Each row decides for itself.

    Args:
        threshold: relative change from which all blocks run, >= 0; 0 is the plain network. 0.05 to 0.2 are common.

    Raises:
        BadInput: a negative threshold. Refused: a network without a row of at least two transformer blocks.

    Example:
        >>> load("shapes-flow").generate("a red circle", patches=[FirstBlockCache(threshold=0.1)])

    Reference: ParaAttention's First Block Cache, a simple form of Liu et al., Timestep Embedding Tells: It's Time to
    Cache for Video Diffusion Model, 2411.19108.
    """

    threshold: float = 0.05

    needs = Needs.SAME_TOKENS

    def __post_init__(self) -> None:
        if not self.threshold >= 0.0:
            raise BadInput(f"FirstBlockCache(threshold={self.threshold}): give a relative change, 0 or more")

    def neutral(self) -> FirstBlockCache:
        """The setting that changes nothing."""
        return FirstBlockCache(0.0)

    def sites(self, net: Sites) -> Sequence[Site]:
        blocks = [s for s in net.blocks if s.stage == "body"]
        if len(blocks) < 2:
            raise Refused("FirstBlockCache: this network is no row of transformer blocks; use DeepCache on a UNet")
        return [replace(blocks[0], note="first"), *blocks[1:-1], replace(blocks[-1], note="last")]

    def around(self, call: Call) -> Any:
        if call.at is None:
            return call()
        if call.site.note == "first":
            return self._first(call)
        return call.split(call.common["still"].tolist(), _skipped, _computed)

    def _first(self, call: Call) -> Any:
        out, common = call(), call.common
        image = out[call.site.returns.index("image")] if isinstance(out, tuple) else out
        added = image - call["image"]
        # a row without a last time has changed without bound
        last = call.split(common.held("added"), lambda c: c.common["added"], lambda c: torch.zeros_like(c["image"]))
        change = _mean(added - last) / _mean(last)
        still = change < self.threshold
        common["still"], common["added"] = still, torch.where(still[:, None, None], last, added)
        common["first"] = out
        return out


def _computed(call: Call) -> Any:
    out = call()
    if call.site.note == "last":
        call.common["rest"] = _sum(out, call.common["first"], -1.0)
    return out


def _skipped(call: Call) -> Any:
    return _sum(call.common["rest"], passed(call), 1.0) if call.site.note == "last" else passed(call)


def _sum(first: Any, second: Any, weight: float) -> Any:
    """first + weight * second, stream by stream; the last block may return no text."""
    return pytree.tree_map(lambda a, b: a + weight * b if isinstance(a, Tensor) else a, first, second)


def _mean(x: Tensor) -> Tensor:
    return x.abs().flatten(1).mean(1)
