"""Plug-and-Play: features and self-attention of the source keep the layout of the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..core.call import Call
from ..core.errors import BadInput
from ..core.patch import Patch
from ..core.plugin import Needs
from ..core.registry import method
from ..core.site import Site, Sites
from ..core.value import put
from .branches import carried, pairs_in, self_attention


@method(paper="plug-and-play")
@dataclass(frozen=True)
class PlugAndPlay(Patch):
    """f_t <- f*_t in one decoder layer, and A_t <- softmax(Q*_t K*_t) in the self-attention from that layer on.

    Args:
        features, attention: shares of the run, from its beginning, in which each is taken from the source.
        layer: position of the decoder layer, 0 to 1; the paper's layer 4 of the 12 of Stable Diffusion is 1/3.

    Raises:
        BadInput: numbers out of range. Refused: a network without self-attention.

    Example:
        >>> edit(model, image, "a red circle", "a striped red circle", editor=[PlugAndPlay()])

    Reference: Tumanyan et al., Plug-and-Play Diffusion Features for Text-Driven Image-to-Image Translation, 2211.12572.

    Differs from the paper: both branches of guidance take the features of the same branch of the source, which runs
    with its own prompt; on transformers the feature is what the feed-forward network of a layer adds, and queries and
    keys are those of image tokens.
    """

    features: float = 0.8
    attention: float = 0.5
    layer: float = 1 / 3

    needs = Needs.COUPLES

    def __post_init__(self) -> None:
        if not (0.0 <= self.features <= 1.0 and 0.0 <= self.attention <= 1.0 and 0.0 <= self.layer < 1.0):
            raise BadInput(f"{self}: features and attention lie in [0, 1], layer in [0, 1)")

    def sites(self, net: Sites) -> Sequence[Site]:
        resnets = [s for s in net.units if (s.role, s.stage) == ("resnet", "up")]
        layers = resnets or [s for s in net.units if s.role == "feedforward" and "image" in s.returns]
        self_sites = self_attention(net, self)
        chosen = layers[int(self.layer * len(layers))]
        # In a resnet the last convolution is what it adds; the shortcut stays the target's own.
        feature = next(s for s in net.all if s.name == f"{chosen.name}.conv2") if resnets else chosen
        later = [s for s in self_sites if s.depth >= chosen.depth and (not resnets or s.stage == "up")]
        return [replace(feature, note="feature"), *later]

    def around(self, call: Call) -> Any:
        out = call()
        if call.site.note != "feature" or not _early(call, self.features):
            return out
        targets, sources = pairs_in(call, self)
        return put(out, targets, out[sources])

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not _early(call, self.attention):
            return q, k, v
        pairs, image = pairs_in(call, self), call.span("image")
        return carried(q, pairs, image), carried(k, pairs, image), v


def _early(call: Call, share: float) -> bool:
    return call.at is not None and call.at.progress < share
