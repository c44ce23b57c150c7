"""MasaCtrl: the target looks up its content in the source's self-attention."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.registry import method
from .key_value_bank import KVBank


@method(paper="masactrl")
@dataclass(frozen=True)
class MasaCtrl(KVBank):
    """Attention(Q_target, K_source, V_source) in self-attention, from a step and a layer on.

    The layout follows the target prompt, which early steps and layers decide, and the content the source.

    Args:
        step: share of the run after which it acts; the paper's step 4 of 50 is 0.08.
        layer: share of the self-attention layers, in the order of execution, before those in which it acts; the paper's
            layer 10 of 16 is 0.625.
        until, mixing: as of `KVBank`.

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
