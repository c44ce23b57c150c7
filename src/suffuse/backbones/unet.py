"""UNets of diffusers: UNet2DConditionModel (SD1, SD2, SDXL) and UNet2DModel (pixel models, with or without classes)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.family import Family
from ..core.patch import Site

STREAMS = {"image": "hidden_states", "text": "encoder_hidden_states", "temb": "temb", "skips": "res_hidden_states_tuple"}


class ConditionalUNet(Family):
    """UNet with cross-attention.

    Cond entries: "text" (B, tokens, width); "text_mask" (B, tokens) bool, True where attended; "pooled" (B, width) and
    "time_ids" (B, 6) for SDXL; "label" (B,) for class-conditional ones; "source" (B, C, H, W) concatenated to the state
    (inpainting, InstructPix2Pix, upscalers).
    """

    name = "ConditionalUNet"
    reads = ("text", "text_mask", "pooled", "time_ids", "label", "source")

    def accepts(self, net: nn.Module) -> bool:
        return type(net).__name__ == "UNet2DConditionModel"

    def call(self, net: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        if "text" not in cond:
            raise BadInput("cond['text'] is missing: this UNet needs text embeddings (B, tokens, width); use model.generate or encode a prompt")
        dtype = net.dtype
        if "source" in cond:
            x = _beside(x, cond["source"])
        added: dict[str, Any] = {}
        if "pooled" in cond:
            added = {"text_embeds": cond["pooled"].to(dtype), "time_ids": cond["time_ids"].to(dtype)}
        mask = cond["text_mask"] if "text_mask" in cond else None
        out = net(
            x.to(dtype), timestep.to(x.device, x.dtype), cond["text"].to(dtype), class_labels=cond.get("label"),
            added_cond_kwargs=added or None, encoder_attention_mask=mask, return_dict=False,
        )[0]  # fmt: skip
        return out[:, : x.shape[1]].to(x.dtype) if "source" in cond else out.to(x.dtype)

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        return _blocks(net)


class PlainUNet(Family):
    """UNet without text; with "label" (B,) where it has class embeddings, the last class being the null class."""

    name = "PlainUNet"
    reads = ("label", "source")

    def accepts(self, net: nn.Module) -> bool:
        return type(net).__name__ == "UNet2DModel"

    def call(self, net: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        if "source" in cond:
            x = _beside(x, cond["source"])
        dtype = net.dtype
        out = net(x.to(dtype), timestep.to(x.device, x.dtype), class_labels=cond.get("label"), return_dict=False)[0]
        return out.to(x.dtype)

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        return _blocks(net)


def _beside(x: Tensor, source: Tensor) -> Tensor:
    from torch import cat

    return cat([x, source.to(x.dtype)], 1)


def _blocks(net: Any) -> Iterator[Site]:
    """Units in the order of execution: a resnet and its transformer share a position, samplers have their own."""
    plan: list[tuple[str, nn.Module, str, str, str]] = [("conv_in", net.conv_in, "unit", "in", "in")]
    for stage, blocks in (("down", net.down_blocks), ("mid", [net.mid_block]), ("up", net.up_blocks)):
        for j, block in enumerate(b for b in blocks if b is not None):
            name = "mid_block" if stage == "mid" else f"{stage}_blocks.{j}"
            plan.append((name, block, "block", stage, stage))
            resnets, attentions = list(block.resnets), list(getattr(block, "attentions", None) or [])
            if stage == "mid":
                order: list[tuple[str, nn.Module, str]] = [(f"{name}.resnets.0", resnets[0], "resnet")]
                for k, resnet in enumerate(resnets[1:]):
                    if k < len(attentions) and attentions[k] is not None:
                        order.append((f"{name}.attentions.{k}", attentions[k], "transformer"))
                    order.append((f"{name}.resnets.{k + 1}", resnet, "resnet"))
            else:
                order = []
                for k, resnet in enumerate(resnets):
                    order.append((f"{name}.resnets.{k}", resnet, "resnet"))
                    if k < len(attentions) and attentions[k] is not None:
                        order.append((f"{name}.attentions.{k}", attentions[k], "transformer"))
                for attribute, role in (("downsamplers", "down"), ("upsamplers", "up")):
                    for k, sampler in enumerate(getattr(block, attribute, None) or []):
                        order.append((f"{name}.{attribute}.{k}", sampler, role))
            plan += [(n, m, "unit", stage, role) for n, m, role in order]
    plan.append(("conv_out", net.conv_out, "unit", "out", "out"))
    for k, (name, module, kind, stage, role) in enumerate(plan):
        depth = k / (len(plan) - 1)
        streams = {c: ("input_tensor" if (c, role) == ("image", "resnet") else a) for c, a in STREAMS.items()}
        yield Site(name, module, kind, role, stage, depth, streams)
        if kind == "unit" and role == "transformer":
            for inner, attention in module.named_modules():
                if type(attention).__name__ == "Attention":
                    cross = inner.endswith("attn2") and getattr(attention, "is_cross_attention", True)
                    yield Site(f"{name}.{inner}" if inner else name, attention, "attention", "cross" if cross else "self", stage, depth, STREAMS)
