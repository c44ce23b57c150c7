"""PixArt-alpha and PixArt-Sigma: PixArtTransformer2DModel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.family import Family
from ..core.site import Site
from .inputs import TEXT, check_size, dtype_of, need, without_variance
from .transformer import is_transformer2d, transformer_sites

STREAMS = {"image": "hidden_states", "text": "encoder_hidden_states", "temb": "timestep"}


class PixArt(Family):
    """Transformer with cross-attention and one adaptive norm for all layers; its learned variance is dropped.

    Cond entries: "text" (B, tokens, width); "text_mask" (B, tokens) bool, True where attended; "resolution" (B, 2)
    height and width in pixels and "aspect_ratio" (B, 1) for networks that are told them (PixArt-alpha at 1024).

    Reference: Chen et al., PixArt-alpha, 2310.00426; Chen et al., PixArt-Sigma, 2403.04692.
    """

    name = "PixArt"
    reads = ("text", "text_mask", "resolution", "aspect_ratio")

    def accepts(self, net: nn.Module) -> bool:
        return type(net).__name__ == "PixArtTransformer2DModel" or is_transformer2d(net, "ada_norm_single")

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        check_size(x, net.config.patch_size)
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if net.use_additional_conditions:
            added["resolution"] = need(cond, "resolution", "height and width in pixels (B, 2)").to(dtype_of(net))
            added["aspect_ratio"] = need(cond, "aspect_ratio", "height / width (B, 1)").to(dtype_of(net))
        out = net(
            x.to(dtype_of(net)),
            encoder_hidden_states=need(cond, "text", TEXT).to(dtype_of(net)),
            timestep=timestep.to(x.device, torch.float32),
            added_cond_kwargs=added,
            encoder_attention_mask=cond.get("text_mask"),
            return_dict=False,
        )[0]
        return without_variance(out, x)

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        return transformer_sites("pos_embed", net, {"transformer_blocks": ("image",)}, "proj_out", STREAMS)

    def patch(self, net: Any) -> int:
        return net.config.patch_size
