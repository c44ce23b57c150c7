"""UNets of diffusers: UNet2DConditionModel (SD1, SD2, SDXL) and UNet2DModel (pixel models, with or without classes)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.family import Family
from ..core.site import Site
from .inputs import POOLED, TEXT, beside, dtype_of, need, told_scale

STREAMS = {
    "image": "hidden_states",
    "text": "encoder_hidden_states",
    "temb": "temb",
    "skips": "res_hidden_states_tuple",
}
IMAGE_OF = {"resnet": "input_tensor", "in": "input", "out": "input"}
"""Argument that carries the image in units that do not call it hidden_states."""


class ConditionalUNet(Family):
    """UNet with cross-attention.

    Cond entries: "text" (B, tokens, width); "text_mask" (B, tokens) bool, True where attended; "pooled" (B, width) and
    "time_ids" (B, 6) for SDXL; "label" (B,) for class-conditional ones; "source" (B, C, H, W) concatenated to the state
    (inpainting, InstructPix2Pix, upscalers); "guidance_scale" (B,) for networks distilled from guidance (LCM).

    Reference: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2112.10752.
    """

    name = "ConditionalUNet"
    reads = ("text", "text_mask", "pooled", "time_ids", "label", "source", "guidance_scale")

    def accepts(self, net: nn.Module) -> bool:
        return type(net).__name__ == "UNet2DConditionModel"

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        dtype, width = dtype_of(net), net.config.time_cond_proj_dim
        scale = told_scale(cond, width is not None)
        out = net(
            _channels(net, beside(x, cond)).to(dtype),
            timestep.to(x.device, torch.float32),
            timestep_cond=None if scale is None else embedded_scale(scale, width).to(dtype),
            encoder_attention_mask=cond.get("text_mask"),
            return_dict=False,
            **told(net, cond),
        )[0]
        return out.to(x.dtype)

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        return _blocks(net)

    def shape(self, net: Any) -> tuple[int, ...]:
        return (net.config.out_channels, *super().shape(net)[1:])


class PlainUNet(Family):
    """UNet without text.

    Cond entries: "label" (B,) where it has class embeddings, the last class being the null class; "source"
    (B, C, H, W) concatenated to the state (super-resolution), and behind it "mask" (B, 1, H, W) (inpainting).

    Reference: Ho et al., Denoising Diffusion Probabilistic Models, 2006.11239.
    """

    name = "PlainUNet"
    reads = ("label", "source", "mask")

    def accepts(self, net: nn.Module) -> bool:
        return type(net).__name__ == "UNet2DModel"

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        label = need(cond, "label", "class labels (B,)") if net.class_embedding is not None else None
        x_in = _channels(net, beside(x, cond, ("source", "mask"))).to(dtype_of(net))
        return net(x_in, timestep.to(x.device, torch.float32), class_labels=label, return_dict=False)[0].to(x.dtype)

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        return _blocks(net)

    def shape(self, net: Any) -> tuple[int, ...]:
        return (net.config.out_channels, *super().shape(net)[1:])


def told(net: Any, cond: Cond) -> dict[str, Any]:
    """What such a network, or a copy of its encoder, is told beside state and time, by its names of arguments."""
    dtype, added = dtype_of(net), None
    if net.config.addition_embed_type == "text_time":
        pooled, sizes = need(cond, "pooled", POOLED), need(cond, "time_ids", "sizes and crop (B, 6)")
        added = {"text_embeds": pooled.to(dtype), "time_ids": sizes.to(dtype)}
    text = need(cond, "text", TEXT).to(dtype)
    return {"encoder_hidden_states": text, "class_labels": cond.get("label"), "added_cond_kwargs": added}


def embedded_scale(scale: Tensor, width: int) -> Tensor:
    """(B, width) sinusoids of 1000 (scale - 1), the form in which LCMs are told a guidance scale."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=scale.device) * (-math.log(10000.0) / (half - 1)))
    angles = 1000.0 * (scale.float() - 1.0)[:, None] * rates
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))


def _channels(net: Any, x: Tensor) -> Tensor:
    if x.shape[1] != net.config.in_channels:
        raise BadInput(
            f"state and cond['source'] have {x.shape[1]} channels together, this UNet takes {net.config.in_channels}; "
            "give a source, and a mask, where the network was trained with one, and none elsewhere"
        )
    return x


def _blocks(net: Any) -> Iterator[Site]:
    """Levels and their units in the order of execution."""
    plan: list[tuple[str, nn.Module, str, str, str]] = [("conv_in", net.conv_in, "unit", "in", "in")]
    for stage, blocks in (("down", net.down_blocks), ("mid", [net.mid_block]), ("up", net.up_blocks)):
        for k, block in enumerate(blocks):
            if block is not None:
                name = "mid_block" if stage == "mid" else f"{stage}_blocks.{k}"
                plan.append((name, block, "block", stage, stage))
                plan += [(f"{name}.{inner}", m, "unit", stage, role) for inner, m, role in _units(block, stage)]
    plan.append(("conv_out", net.conv_out, "unit", "out", "out"))
    for k, (name, module, kind, stage, role) in enumerate(plan):
        depth = k / (len(plan) - 1)
        streams = {**STREAMS, "image": IMAGE_OF.get(role, "hidden_states")}
        returns = ("image", "skips") if (kind, stage) == ("block", "down") else ("image",)
        yield Site(name, module, kind, role, stage, depth, streams, returns)
        if role == "transformer":
            yield from _inside(name, module, stage, depth)


def _units(block: Any, stage: str) -> Iterator[tuple[str, nn.Module, str]]:
    """Units of one level as (name, module, role); the middle one begins with a resnet, the others alternate."""
    resnets, attentions = list(block.resnets), list(getattr(block, "attentions", None) or [])
    ahead = 1 if stage == "mid" else 0
    for k, resnet in enumerate(resnets):
        yield f"resnets.{k}", resnet, "resnet"
        if k < len(attentions) and k < len(resnets) - ahead and attentions[k] is not None:
            yield f"attentions.{k}", attentions[k], "transformer"
    for attribute, role in (("downsamplers", "down"), ("upsamplers", "up")):
        for k, sampler in enumerate(getattr(block, attribute, None) or []):
            yield f"{attribute}.{k}", sampler, role


def _inside(name: str, transformer: nn.Module, stage: str, depth: float) -> Iterator[Site]:
    for inner, module in transformer.named_modules():
        full, kind = f"{name}.{inner}" if inner else name, type(module).__name__
        if kind == "Attention":
            cross = bool(getattr(module, "is_cross_attention", False))
            keys = ("text",) if cross else ("image",)
            yield Site(full, module, "attention", "cross" if cross else "self", stage, depth, STREAMS, keys=keys)
        elif kind == "FeedForward":
            yield Site(full, module, "unit", "feedforward", stage, depth, {"image": "hidden_states"})
