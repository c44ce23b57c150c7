"""Attention to tokens of a picture beside attention to the text, with keys and values of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.registry import method
from ..core.site import Site, Sites


@method(paper="ip-adapter", tags=("image prompt",))
@dataclass(frozen=True)
class ImagePrompt(Patch):
    """Attention(Q, K, V) + w Attention(Q, K', V')  with  K' = c W'_k, V' = c W'_v  of tokens c of a picture.

    The tokens are `cond[entry]`, (B, n, width of the text), and those of the branch "null" its own. w is the adapter's
    scale. `IPAdapter` makes them of pictures, and reads released weights.

    Args:
        entry: of the condition.

    Raises:
        Refused: a network without cross-attention. BadInput: a condition without the tokens.

    Example:
        >>> prompt = ImagePrompt().on(model.denoiser)  # trained as any adapter
        >>> told = Given(model.conditioner, {"image_prompt": tokens}, {"null": {"image_prompt": 0 * tokens}})
        >>> model.with_(prompt.scaled(0.5)).with_conditioner(told).generate("a red circle")

    Reference: Ye et al., IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models,
    2308.06721.

    Differs from the paper: values begin at zero instead of as a copy of the text's, so that a new one adds nothing.
    """

    entry: str = "image_prompt"

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.entry,)

    def sites(self, net: Sites) -> Sequence[Site]:
        """Every cross-attention."""
        return net.attention("cross") or _refuse(self)

    def make(self, site: Site) -> nn.Module:
        module: Any = site.module
        text = module.to_k
        key, value = (nn.Linear(text.in_features, text.out_features, bias=False) for _ in range(2))
        key.load_state_dict({"weight": text.weight})
        nn.init.zeros_(value.weight)
        return nn.ModuleDict({"to_k_ip": key.to(text.weight), "to_v_ip": value.to(text.weight)})

    def beside(self, call: Call, q: Tensor) -> Tensor | None:
        if not call.scale:
            return None
        if self.entry not in call.cond:
            raise BadInput(
                f"cond[{self.entry!r}] is missing: {self} reads tokens of a picture; use IPAdapter.shown(...)"
            )
        tokens = call.cond[self.entry].to(q)
        k, v = (
            call.part[name](tokens).unflatten(-1, (q.shape[1], -1)).transpose(1, 2) for name in ("to_k_ip", "to_v_ip")
        )
        return call.scale * F.scaled_dot_product_attention(q, k, v)


def _refuse(patch: ImagePrompt) -> Sequence[Site]:
    raise Refused(f"{patch}: this network has no cross-attention; use one that is told by text, such as SD1's")
