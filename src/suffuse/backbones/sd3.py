"""MMDiT of Stable Diffusion 3 and 3.5: SD3Transformer2DModel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.family import Family
from ..core.site import Site
from .inputs import POOLED, TEXT, check_size, dtype_of, need
from .transformer import transformer_sites

STREAMS = {"image": "hidden_states", "text": "encoder_hidden_states", "temb": "temb"}


class SD3(Family):
    """MMDiT whose attention joins image tokens and, behind them, text tokens.

    Cond entries: "text" (B, tokens, width) and "pooled" (B, width).

    Reference: Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, 2403.03206.
    """

    name = "SD3"
    reads = ("text", "pooled")

    def accepts(self, net: nn.Module) -> bool:
        return type(net).__name__ == "SD3Transformer2DModel"

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        check_size(x, net.config.patch_size)
        text = need(cond, "text", TEXT).to(dtype_of(net))
        pooled = need(cond, "pooled", POOLED).to(dtype_of(net))
        return net(x.to(dtype_of(net)), text, pooled, timestep.to(x.device, torch.float32), return_dict=False)[0].to(
            x.dtype
        )

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        lists = {"transformer_blocks": ("text", "image")}
        return transformer_sites("pos_embed", net, lists, "proj_out", STREAMS, joint=("image", "text"))

    def patch(self, net: Any) -> int:
        return net.config.patch_size
