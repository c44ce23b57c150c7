"""Self-attention of the target with keys and values of its source: in place of its own, beside them, or by regions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.call import Call
from ..core.errors import BadInput
from ..core.patch import Patch
from ..core.plugin import Needs
from ..core.registry import method
from ..core.site import Site, Sites
from .branches import Pairs, carried, pairs_in, self_attention
from .feature_probe import PROBED, centres
from .regions import Operation, Pointed


class Mixing(ABC):
    """How a target attends to keys and values of a bank: a small value."""

    places: ClassVar[tuple[str, ...]] = ()
    """What it needs of the places that a user points at."""

    @abstractmethod
    def tokens(self, call: Call, v: Tensor, pairs: Pairs) -> Tensor:
        """Keys or values (B, heads, tokens, width), those of the targets with the bank's."""

    def kept(self, call: Call, pairs: Pairs, tokens: int) -> Tensor | None:
        """(B, tokens) 1 where there is to be attention, or None for everywhere."""
        return None


@dataclass(frozen=True)
class Replaced(Mixing):
    """Attention(Q, K_source, V_source)."""

    def tokens(self, call: Call, v: Tensor, pairs: Pairs) -> Tensor:
        return carried(v, pairs, call.span("image"))


@dataclass(frozen=True)
class Concatenated(Mixing):
    """Attention(Q, [K, K_source], [V, V_source]); a row beside itself is itself."""

    def tokens(self, call: Call, v: Tensor, pairs: Pairs) -> Tensor:
        return torch.cat([v, carried(v, pairs)], 2)


@dataclass(frozen=True)
class Chosen(Mixing):
    """Attention to the source where `operation` puts nothing, and to the picture of its region within that.

    Args:
        operation: of the edit.
    """

    operation: Operation

    @property
    def places(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.operation.places

    def tokens(self, call: Call, v: Tensor, pairs: Pairs) -> Tensor:
        targets, sources = pairs
        taken = self.operation.taken(call.rows, sources)
        return torch.cat([carried(v, pairs), carried(v, (targets, taken))], 2)

    def kept(self, call: Call, pairs: Pairs, tokens: int) -> Tensor:
        targets, sources = pairs
        pointed = Pointed.at(call.cond, self.operation, targets, self.operation.taken(call.rows, sources))
        height = round(math.sqrt(tokens // 2 * pointed.size[0] / pointed.size[1]))
        region = self.operation.region(pointed, centres(height, tokens // 2 // height, pointed.size))
        kept = torch.ones(len(call.rows), tokens)
        kept[targets] = torch.cat([1.0 - region.new, region.old], 1).to(kept)
        return kept


@method(paper="dragondiffusion")
@dataclass(frozen=True)
class KVBank(Patch):
    """Attention(Q_target, [K, V of target and source]) in self-attention, for a part of the run and of the layers.

    The bank is the source's own row of the same evaluation, so that nothing is stored, and its keys and values are
    those at the same time. Evaluations that look at features are left alone.

    Args:
        step, until: shares of the run between which it acts; the paper's step 5 of 50 is 0.1.
        layer: share of the self-attention layers, in the order of execution, before those in which it acts; the decoder
            of Stable Diffusion begins at 7/16.
        mixing: `Replaced()`, `Concatenated()`, or `Chosen(operation)`, which attends to regions only.

    Raises:
        BadInput: numbers out of range. Refused: a network without self-attention.

    Example:
        >>> edit(model, image, "a red circle", "a red square", editor=[KVBank(mixing=Concatenated())])

    Reference: Mou et al., DragonDiffusion: Enabling Drag-style Manipulation on Diffusion Models, 2307.02421.

    Differs from the paper: on transformers that attend jointly, keys and values of text tokens stay the target's own.
    """

    step: float = 5 / 50
    layer: float = 7 / 16
    until: float = 1.0
    mixing: Mixing = Replaced()

    needs = Needs.COUPLES

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not (0.0 <= self.step <= 1.0 and 0.0 <= self.until <= 1.0 and 0.0 <= self.layer < 1.0):
            raise BadInput(
                f"{name}(step={self.step}, until={self.until}, layer={self.layer}): step and until lie in [0, 1], "
                "layer in [0, 1)"
            )

    @property
    def places(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.mixing.places

    def sites(self, net: Sites) -> Sequence[Site]:
        found = self_attention(net, self)
        return found[int(self.layer * len(found)) :]

    def watches(self, call: Call) -> bool:
        return type(self.mixing).kept is not Mixing.kept and self._acts(call)

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self._acts(call):
            return q, k, v
        pairs = self._pairs(call)
        return q, self.mixing.tokens(call, k, pairs), self.mixing.tokens(call, v, pairs)

    def probs(self, call: Call, p: Tensor) -> Tensor:
        kept = self.mixing.kept(call, self._pairs(call), p.shape[3])
        if kept is None:
            return p
        p = p * kept[:, None, None].to(p)
        return p / p.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)

    def _acts(self, call: Call) -> bool:
        inside = call.at is None or self.step <= call.at.progress < self.until
        return inside and bool(self._pairs(call)[0])

    def _pairs(self, call: Call) -> Pairs:
        targets, sources = pairs_in(call, self)
        keep = [k for k, i in enumerate(targets) if call.rows[i][0].rpartition("/")[2] != PROBED]
        return [targets[k] for k in keep], [sources[k] for k in keep]
