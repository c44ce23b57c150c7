"""Flux: FluxTransformer2DModel, whose tokens are 2x2 squares of the latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.family import Family
from ..core.site import Site
from .inputs import POOLED, TEXT, beside, check_size, dtype_of, need, told_scale
from .transformer import transformer_sites

STREAMS = {"image": "hidden_states", "text": "encoder_hidden_states", "temb": "temb", "pos": "image_rotary_emb"}


class Flux(Family):
    """MMDiT whose attention joins text tokens and, behind them, image tokens; states stay (B, C, H, W).

    Cond entries: "text" (B, tokens, width); "pooled" (B, width); "guidance_scale" (B,) for networks distilled from
    guidance (FLUX.1-dev); "source" (B, C, H, W), channels beside the state (Fill, Canny, Depth: latents, then the mask
    as 64 channels).

    Reference: Black Forest Labs, FLUX.1, 2024.
    """

    name = "Flux"
    reads = ("text", "pooled", "guidance_scale", "source")

    def accepts(self, net: nn.Module) -> bool:
        return type(net).__name__ == "FluxTransformer2DModel"

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        check_size(x, 2)
        text = need(cond, "text", TEXT).to(dtype_of(net))
        pooled = need(cond, "pooled", POOLED).to(dtype_of(net))
        scale = told_scale(cond, bool(net.config.guidance_embeds))
        height, width = x.shape[2] // 2, x.shape[3] // 2
        out = net(
            pack(beside(x, cond)).to(dtype_of(net)),
            text,
            pooled,
            timestep.to(x.device, torch.float32) / 1000,
            positions(height, width).to(x.device),
            torch.zeros(text.shape[1], 3, device=x.device),
            None if scale is None else scale.to(x.device, torch.float32),
            return_dict=False,
        )[0]
        return unpack(out, height, width).to(x.dtype)

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        lists = {"transformer_blocks": ("text", "image"), "single_transformer_blocks": ("text", "image")}
        return transformer_sites("x_embedder", net, lists, "proj_out", STREAMS, joint=("text", "image"))

    def shape(self, net: Any) -> tuple[int, ...]:
        # Its configuration has no size; 128 is what its pipelines default to.
        return (net.out_channels // 4, 128, 128)

    def patch(self, net: Any) -> int:
        return 2


def pack(x: Tensor) -> Tensor:
    """(B, C, H, W) latents to (B, H/2 W/2, 4 C) tokens."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, height * width, 4 C) tokens to (B, C, 2 height, 2 width) latents."""
    b, _, c = tokens.shape
    squares = tokens.view(b, height, width, c // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, 2 * height, 2 * width)


def positions(height: int, width: int) -> Tensor:
    """(height * width, 3): for each token 0, its row and its column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float()
