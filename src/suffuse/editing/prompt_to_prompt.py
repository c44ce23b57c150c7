"""Prompt-to-Prompt: attention maps of the source steer where the words of the target go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.plugin import Needs
from ..core.registry import method
from ..core.site import Site, Sites
from .branches import carried, pairs_in
from .words import alignment, labels, tokens_of

SELF_TOKENS = 32 * 32
"""Self-attention on finer grids is left alone, as in the official code."""


@method(paper="prompt-to-prompt")
@dataclass(frozen=True)
class PromptToPrompt(Patch):
    """Cross-attention maps of words that both prompts have, and self-attention maps, come from the source branch.

    M_t <- M*_t for the first share `cross_replace` (cross-attention) and `self_replace` (self-attention) of the steps.
    New words keep their own maps, and rows of the unconditional branch stay as they are.

    Args:
        cross_replace, self_replace: shares of the run, 0 to 1.
        swap: words that stand in the place of others take over their maps too, which keeps more of the shape; the paper
            calls this a word swap, and the default a prompt refinement.

    Raises:
        Refused: a network without cross-attention, or a condition that does not know its words.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", editor=[PromptToPrompt()])

    Reference: Hertz et al., Prompt-to-Prompt Image Editing with Cross Attention Control, 2208.01626.

    Differs from the paper: self-attention maps are taken over by taking queries and keys, which is the same and does
    not form the maps.
    """

    cross_replace: float = 0.4
    self_replace: float = 0.6
    swap: bool = False

    needs = Needs.COUPLES

    def sites(self, net: Sites) -> Sequence[Site]:
        if not net.attention("cross"):
            raise Refused("PromptToPrompt: this network has no cross-attention; use MasaCtrl, or a UNet or PixArt")
        return [*net.attention("cross"), *net.attention("self")]

    def watches(self, call: Call) -> bool:
        return call.site.role == "cross" and call.at is not None and call.at.progress < self.cross_replace

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        active = call.at is not None and call.at.progress < self.self_replace
        if call.site.role == "cross" or not active or q.shape[2] > SELF_TOKENS:
            return q, k, v
        pairs = pairs_in(call, self, null=False)
        return carried(q, pairs), carried(k, pairs), v

    def probs(self, call: Call, p: Tensor) -> Tensor:
        targets, sources = pairs_in(call, self, null=False)
        if not targets:
            return p
        moves = call.scratch.get((self, call.rows))
        if moves is None:
            names = [labels(call.cond, row, p.shape[-1], self) for row in range(len(call.rows))]
            found = [alignment(names[s], names[t], self.swap) for t, s in zip(targets, sources, strict=True)]
            moves = [torch.stack(each)[:, None].to(p.device) for each in zip(*found, strict=True)]
            call.scratch[self, call.rows] = moves
        share, taken = moves
        new = torch.where(taken[:, :, None], p[sources] @ share.to(p), p[targets])
        return p.index_copy(0, torch.tensor(targets, device=p.device), new)


@method(paper="prompt-to-prompt")
@dataclass(frozen=True)
class Reweight(Patch):
    """M_t[word] <- w M_t[word] in the target's cross-attention: more or less of a word. Put it after PromptToPrompt.

    Args:
        word: of the target prompt, in lower case.
        w: factor; 1 changes nothing, negative values turn the word around.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", editor=[PromptToPrompt(), Reweight("blue", 2.0)])

    Reference: Hertz et al., Prompt-to-Prompt Image Editing with Cross Attention Control, 2208.01626.
    """

    word: str
    w: float = 2.0

    needs = Needs.COUPLES

    def sites(self, net: Sites) -> Sequence[Site]:
        if not net.attention("cross"):
            raise Refused("Reweight: this network has no cross-attention; use it on a UNet or PixArt")
        return net.attention("cross")

    def probs(self, call: Call, p: Tensor) -> Tensor:
        targets, _ = pairs_in(call, self, null=False)
        if not targets:
            return p
        marked = torch.stack([tokens_of([self.word], call.cond.spans[t], p.shape[-1]) for t in targets])
        if not marked.any():
            raise BadInput(f"Reweight(word={self.word!r}): no target prompt has this word; give one in lower case")
        factor = 1.0 + (self.w - 1.0) * marked[:, None, None, :].to(p)
        return p.index_copy(0, torch.tensor(targets, device=p.device), p[targets] * factor)
