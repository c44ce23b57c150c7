"""Structured Diffusion Guidance: each noun phrase of a prompt is attended to as it reads by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..conditioning.phrases import noun_phrases
from ..core.call import Call
from ..core.errors import Refused
from ..core.patch import Patch
from ..core.plugin import Prompt
from ..core.registry import method
from ..core.site import Site, Sites

BRANCHES = ("", "cond")
"""Ends of the paths on which the prompt itself is asked."""


@method(paper="structured-guidance", tags=("composition",))
@dataclass(frozen=True)
class StructuredDiffusion(Patch):
    """Cross-attention with values of all noun phrases: O = A(Q, K_p) (V_p + V_1 + ... + V_k) / (k + 1).

    W_p is the encoded prompt, and W_i the same with the tokens of phrase i replaced by those of the phrase encoded
    alone; V_i = W_V W_i. As a conjunction keys come from each W_i as well: O = (sum_i A(Q, K_i) V_i) / (k + 1), for
    prompts of the form "A and B". Acts in all layers and steps, on the conditional branch only; the rows of the end
    and of padding stay those of the prompt.

    Args:
        spans: phrases instead of the noun phrases that `suffuse.conditioning.phrases` finds; those that a prompt does
            not contain are passed over.
        conjunction: keys from each phrase as well.

    Raises:
        Refused: networks without cross-attention, and conditions that hold no phrases.

    Example:
        >>> model.generate("a red circle left of a blue square", patches=[StructuredDiffusion()])

    Reference: Feng et al., Training-Free Structured Diffusion Guidance for Compositional Text-to-Image Synthesis,
    2212.05032.

    Differs from the paper: phrases come from a small grammar instead of a constituency parser. A phrase that stands in
    a prompt twice is replaced at both places.
    """

    spans: tuple[str, ...] = ()
    conjunction: bool = False

    def phrases(self, prompt: Prompt | None) -> Sequence[Prompt]:
        if not isinstance(prompt, str):
            return ()
        return tuple(p for p in self.spans if _words(p, prompt)) if self.spans else noun_phrases(prompt)

    def sites(self, net: Sites) -> Sequence[Site]:
        cross = net.attention("cross")
        if not cross:
            raise Refused("StructuredDiffusion: this network has no cross-attention; use a UNet or PixArt model")
        return [net.root, *cross]

    def around(self, call: Call) -> Any:
        if call.site.kind == "root":
            return self._told_all(call)
        w, length = call.scratch[self]
        text, mask = call["text"], call["attention_mask"]
        prompts = text.unflatten(1, (w.shape[1], length))
        mask = None if mask is None else mask[..., :length]
        if self.conjunction:
            outs = [call(text=prompts[:, i], attention_mask=mask) for i in range(w.shape[1])]
            return torch.einsum("bk,bk...->b...", w.to(outs[0]), torch.stack(outs, 1))
        mean = torch.einsum("bk,bk...->b...", w.to(text), prompts)
        both = None if mask is None else torch.cat([mask, mask], -1)
        return call(text=torch.cat([prompts[:, 0], mean], 1), attention_mask=both)

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.conjunction:
            return q, k, v
        length = k.shape[2] // 2  # behind the prompt's tokens stand their means, see `around`
        return q, k[:, :, :length], v[:, :, length:]

    def _told_all(self, call: Call) -> Any:
        """The whole network, told W_p, W_1, ... one behind the other, so that each goes through its projections."""
        cond = call.cond
        if "phrases" not in cond.alt:
            raise Refused(
                "StructuredDiffusion: the condition has no phrases; use Model.generate, or "
                "model.condition(prompts, plugins=[StructuredDiffusion()])"
            )
        text, given = cond["text"], cond.alt["phrases"]["given"].clone()
        given[[path.split("/")[-1] not in BRANCHES for path, _ in call.rows]] = False
        prompts = [text]
        for i in range(given.shape[1]):
            phrase, changed = cond.alt[f"phrase:{i}"], text.clone()
            for row in given[:, i].nonzero()[:, 0].tolist():
                places = _places(_order(cond.spans[row]), _order(phrase.spans[row]))
                given[row, i] = bool(places)
                for here, there in places:
                    changed[row, here] = phrase["text"][row, there].to(text)
            prompts.append(changed)
        count = torch.cat([torch.ones(len(text), 1), given], 1)
        call.scratch[self] = count / count.sum(1, keepdim=True), text.shape[1]
        told = {"text": torch.cat(prompts, 1)}
        if cond.get("text_mask") is not None:
            told["text_mask"] = cond["text_mask"].repeat(1, len(prompts))
        return call(cond=cond | told)


Words = tuple[tuple[str, int, int], ...]
"""(word, first token, last token + 1) in their order."""


def _order(spans: Any) -> Words:
    words = [(name.partition("#")[0], *span) for name, span in spans.items() if not name.startswith("<")]
    return tuple(sorted(words, key=lambda w: w[1]))


@lru_cache(maxsize=4096)
def _places(prompt: Words, phrase: Words) -> tuple[tuple[slice, slice], ...]:
    """Where the phrase stands in the prompt, as (tokens of the prompt, tokens of the phrase alone).

    The end of a prompt that was cut off may cut a phrase; what is left of it counts.
    """
    found = []
    for k in range(len(prompt)):
        pairs = list(zip(prompt[k:], phrase, strict=False))
        whole = len(pairs) == len(phrase) or k + len(pairs) == len(prompt)
        if pairs and whole and all(here[0] == there[0] for here, there in pairs):
            (first, alone), (last, alone_last) = pairs[0], pairs[-1]
            found.append((slice(first[1], last[2]), slice(alone[1], alone_last[2])))
    return tuple(place for place in found if place[0].stop - place[0].start == place[1].stop - place[1].start)


def _words(phrase: str, prompt: str) -> bool:
    return phrase.lower() in prompt.lower()
