"""Token merging: tokens that are alike are averaged before attention and parted again behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.registry import method
from ..core.site import Site, Sites
from ..resolution.size_context import SizeContext
from .token_subset import pick, put


@method(paper="tome", tags=("saves tokens",))
@dataclass(frozen=True)
class TokenMerging(Patch):
    """Attention on fewer tokens: of every stride x stride square of image tokens one, drawn anew for each sample, layer
    and step, is a destination; of all others, those r N are averaged into the destination most like them whose
    likeness, max over b of cos(x_a, x_b), is largest. Behind the attention they get what their destination got.

    Args:
        ratio: r, share of the tokens that are merged away, 0 to 1; 0 is the plain network. No more than the tokens that
            are no destinations, 0.75 at stride 2.
        stride: side of a square, 2 or more.
        downsample: layers on grids up to so many times coarser than the finest with attention; 1 is that alone.
        cross: whether queries of cross-attention are merged too.
        feedforward: whether feed-forwards run on merged tokens too.

    Raises:
        BadInput: numbers out of range. Refused: networks whose attention has no image tokens to merge, or gives them
            their positions.

    Example:
        >>> load("shapes").generate("a red circle", patches=[TokenMerging(ratio=0.5)])

    Reference: Bolya and Hoffman, Token Merging for Fast Stable Diffusion, 2303.17604.

    Differs from the paper: tokens are compared as they enter the self-attention, behind its norm.
    """

    ratio: float = 0.5
    stride: int = 2
    downsample: int = 1
    cross: bool = False
    feedforward: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio <= 1.0 or self.stride < 2 or self.downsample < 1:
            raise BadInput(
                f"TokenMerging(ratio={self.ratio}, stride={self.stride}, downsample={self.downsample}): ratio is in "
                "[0, 1], stride at least 2, downsample at least 1"
            )

    def neutral(self) -> TokenMerging:
        """The setting that changes nothing."""
        return replace(self, ratio=0.0)

    def sites(self, net: Sites) -> Sequence[Site]:
        if any("pos" in s.streams for s in net.blocks):
            raise Refused(
                "TokenMerging: attention of this network gives tokens their positions; use RAS to skip tokens"
            )
        # attention that adds its own input would lose what is merged
        found = [s for s in net.attention() if not getattr(s.module, "residual_connection", False)]
        finest = max((s.grid[0] for s in found), default=0)
        units = [s for s in net if s in found or s.role == "feedforward"]
        roles = ["self", "joint", *["cross"] * self.cross, *["feedforward"] * self.feedforward]
        chosen = [
            s for s in units if s.role in roles and "image" in s.returns and finest <= self.downsample * s.grid[0]
        ]
        if not finest or not chosen:
            raise Refused("TokenMerging: this network has no transformers with self-attention; use DeepCache")
        return [net.root, *(replace(s, note=s.name.rpartition(".")[0]) for s in chosen)]

    def around(self, call: Call) -> Any:
        if call.site.kind == "root":
            SizeContext.at(call)
            return call()
        if call.at is None or self.ratio == 0.0:
            return call()
        key = self, call.site.note, call.rows
        if call.site.role in ("self", "joint"):
            call.scratch[key] = self._matched(call)
        pairs = call.scratch[key]
        out = call(image=pairs.merged(call["image"]))
        return (pairs.parted(out[0]), *out[1:]) if isinstance(out, tuple) else pairs.parted(out)

    def _matched(self, call: Call) -> Pairs:
        assert call.at is not None
        x, s = call["image"], self.stride
        rows, columns = SizeContext.at(call).grid(x.shape[1])
        squares = x.new_empty(len(x), rows // s, columns // s, dtype=torch.float32)
        key = f"step/{call.at.i}/merging/{call.site.note}"
        drawn = (call.at.run.noise.uniform(squares, [sample for _, sample in call.rows], key) * s * s).long()
        top = torch.arange(rows // s, device=x.device)[:, None] * s + drawn // s
        left = torch.arange(columns // s, device=x.device) * s + drawn % s
        return matched(x, (top * columns + left).flatten(1), round(self.ratio * x.shape[1]))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which tokens go into which.

    Args:
        kept: (B, k) tokens that stay as they are.
        destinations: (B, d) tokens that others go into.
        sources: (B, r) tokens that are merged away.
        into: (B, r) the destination of each, counted among the destinations.
    """

    kept: Tensor
    destinations: Tensor
    sources: Tensor
    into: Tensor

    def merged(self, x: Tensor) -> Tensor:
        """(B, k + d, width): tokens that stay, then the means of each destination and what goes into it."""
        to = pick(x, self.destinations)
        where = self.into[..., None].expand(-1, -1, x.shape[-1])
        mean = to.scatter_reduce(1, where, pick(x, self.sources), "mean", include_self=True)
        return torch.cat([pick(x, self.kept), mean], 1)

    def parted(self, y: Tensor) -> Tensor:
        """(B, tokens, width): each token's own, or that of its destination."""
        kept, to = y.split([self.kept.shape[1], self.destinations.shape[1]], 1)
        out = y.new_empty(len(y), y.shape[1] + self.sources.shape[1], y.shape[2])
        for index, part in ((self.kept, kept), (self.destinations, to), (self.sources, pick(to, self.into))):
            out = put(out, index, part)
        return out


def matched(x: Tensor, destinations: Tensor, r: int) -> Pairs:
    """The r tokens of x (B, tokens, width) most like one of the destinations (B, d), with those."""
    is_source = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device).scatter(1, destinations, False)
    sources = is_source.nonzero()[:, 1].view(len(x), -1)
    unit = F.normalize(x, dim=-1)
    likeness, into = (pick(unit, sources) @ pick(unit, destinations).mT).max(-1)
    order = likeness.argsort(dim=1, descending=True, stable=True)
    first, rest = order[:, :r], order[:, r:]
    return Pairs(sources.gather(1, rest), destinations, sources.gather(1, first), into.gather(1, first))
