"""Attention that stays as sharp at other sizes as it was in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.registry import method
from ..core.site import Site, Sites


@method(paper="variable-size")
@dataclass(frozen=True)
class VariableSize(Patch):
    """softmax(sqrt(log_T N / d) Q K^T) in place of softmax(Q K^T / sqrt(d)): the entropy of attention grows like log N.

    N counts the keys of a query in this run and T those of the same layer at the size of training. More tokens make
    attention sharper, fewer flatter; N = T changes nothing, to the bit. Keys that a mask hides are not counted, and
    inside of windows or of a shrunk level N is what is there. Cross-attention has as many keys at every size and stays.

    UNets, DiT and PixArt: N and T are image tokens. SD3 and Flux attend to image and text together: N and T count both,
    of which only the image changes, and all queries are scaled alike. Position tables stay what the network makes of
    them at this size: DiT and PixArt interpolate theirs, SD3 cuts a larger part of its own, Flux rotates further.

    Args:
        strength: power of the factor, 0 changes nothing; or one for each self-attention layer in the order of
            execution.

    Raises:
        BadInput: a negative strength, or not as many as there are layers. Refused: a network without self-attention.

    Example:
        >>> model.generate("a red circle", height=128, width=128, patches=[VariableSize()])

    Reference: Jin et al., Training-free Diffusion Model Adaptation for Variable-Sized Text-to-Image Synthesis,
    2306.08645.
    """

    strength: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if min(self._strengths or (0.0,)) < 0.0:
            raise BadInput(f"VariableSize(strength={self.strength}): give 0 or more")

    @property
    def _strengths(self) -> tuple[float, ...]:
        return self.strength if isinstance(self.strength, tuple) else (self.strength,)

    def neutral(self) -> VariableSize:
        """No scaling."""
        return replace(self, strength=0.0)

    def sites(self, net: Sites) -> Sequence[Site]:
        found = [s for s in net.attention() if s.role in ("self", "joint") and s.grid]
        if not found:
            raise Refused(f"{self}: this network has no self-attention of a known size; use a UNet or a transformer")
        if isinstance(self.strength, tuple) and len(self.strength) != len(found):
            raise BadInput(f"{self}: give one strength, or one for each of the {len(found)} self-attention layers")
        return [replace(s, note=str(k)) for k, s in enumerate(found)]

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        strength = self._strengths[int(call.site.note) if isinstance(self.strength, tuple) else 0]
        text = k.shape[2] - k[:, :, call.span("image")].shape[2]
        trained, keys = math.prod(call.site.grid) + text, _visible(call, k)
        if strength == 0.0 or trained < 2 or bool((keys == trained).all()):
            return q, k, v
        factor = (keys.double().clamp(min=1).log() / math.log(trained)) ** (strength / 2)
        return q * factor.view(-1, 1, 1, 1).to(q), k, v


def _visible(call: Call, k: Tensor) -> Tensor:
    """(B,) or (1,): keys of each row that no mask hides."""
    mask = call["attention_mask"] if "attention_mask" in call else None
    if mask is None:
        return torch.tensor([k.shape[2]])
    return (mask if mask.dtype == torch.bool else mask >= 0).flatten(1).sum(1)
