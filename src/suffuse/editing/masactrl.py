"""MasaCtrl: the target looks up its content in the source's self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.call import Call
from ..core.errors import BadInput
from ..core.patch import Patch
from ..core.plugin import Needs
from ..core.registry import method
from ..core.site import Site, Sites
from .branches import carried, pairs_in, self_attention


@method(paper="masactrl")
@dataclass(frozen=True)
class MasaCtrl(Patch):
    """Attention(Q_target, K_source, V_source) in self-attention, from a step and a layer on.

    The layout follows the target prompt, which early steps and layers decide, and the content the source.

    Args:
        step: share of the run after which it acts; the paper's step 4 of 50 is 0.08.
        layer: share of the self-attention layers, in the order of execution, before those in which it acts; the paper's
            layer 10 of 16 is 0.625.

    Raises:
        BadInput: numbers out of range. Refused: a network without self-attention.

    Example:
        >>> edit(model, image, "a red circle", "a red square", editor=[MasaCtrl()])

    Reference: Cao et al., MasaCtrl: Tuning-Free Mutual Self-Attention Control, 2304.08465.

    Differs from the paper: on transformers that attend jointly (SD3, Flux), keys and values of the image tokens are
    those of the source, of the text tokens the target's own.
    """

    step: float = 4 / 50
    layer: float = 10 / 16

    needs = Needs.COUPLES

    def __post_init__(self) -> None:
        if not (0.0 <= self.step <= 1.0 and 0.0 <= self.layer < 1.0):
            raise BadInput(f"MasaCtrl(step={self.step}, layer={self.layer}): step lies in [0, 1], layer in [0, 1)")

    def sites(self, net: Sites) -> Sequence[Site]:
        found = self_attention(net, self)
        return found[int(self.layer * len(found)) :]

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if call.at is not None and call.at.progress < self.step:
            return q, k, v
        pairs, image = pairs_in(call, self), call.span("image")
        return q, carried(k, pairs, image), carried(v, pairs, image)
