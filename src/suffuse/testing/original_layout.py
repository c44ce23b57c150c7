"""Stock pipelines written as single-file checkpoints in the original key layout: the way back from diffusers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]
Renaming = Sequence[tuple[str, str]]

UNET: Renaming = (
    ("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"),
)  # fmt: skip
RESNET: Renaming = (
    ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("norm2", "out_layers.0"), ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"), ("conv_shortcut", "skip_connection"),
)  # fmt: skip
VAE: Renaming = (
    ("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut"), ("mid_block.attentions.0", "mid.attn_1"),
    ("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"), ("group_norm", "norm"),
    ("to_out.0", "proj_out"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
)  # fmt: skip
OPEN_CLIP: Renaming = (
    ("embeddings.token_embedding", "token_embedding"), ("final_layer_norm", "ln_final"),
    ("encoder.layers", "transformer.resblocks"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("self_attn", "attn"),
)  # fmt: skip


def write(pipe: Any, path: Path) -> Path:
    """Write a StableDiffusionPipeline or StableDiffusionXLPipeline of diffusers as one safetensors file."""
    weights = _below("model.diffusion_model.", unet(pipe.unet)) | _below("first_stage_model.", vae(pipe.vae))
    if hasattr(pipe, "text_encoder_2"):
        weights |= _below("conditioner.embedders.0.transformer.text_model.", clip(pipe.text_encoder))
        weights |= _below("conditioner.embedders.1.model.", open_clip(pipe.text_encoder_2, extra_layer=False))
    elif pipe.text_encoder.config.hidden_act == "gelu":
        weights |= _below("cond_stage_model.model.", open_clip(pipe.text_encoder, extra_layer=True))
    else:
        weights |= _below("cond_stage_model.transformer.text_model.", clip(pipe.text_encoder))
    save_file({k: v.contiguous().clone() for k, v in weights.items()}, path)
    return path


def _below(prefix: str, weights: Weights) -> Weights:
    return {prefix + k: v for k, v in weights.items()}


def _renamed(name: str, rules: Renaming) -> str:
    for new, old in rules:
        name = re.sub(rf"(^|\.){re.escape(new)}(?=\.)", rf"\g<1>{old}", name)
    return name


def unet(net: Any) -> Weights:
    """Weights of a UNet2DConditionModel under their original names."""
    per = net.config.layers_per_block + 1
    out: Weights = {}
    for name, value in net.state_dict().items():
        found = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
        middle = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
        if found:
            side, i, what, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
            block = "input_blocks" if side == "down" else "output_blocks"
            k = per * i + j + (side == "down")
            if what == "downsamplers":
                new = f"{block}.{per * (i + 1)}.0.{rest.replace('conv.', 'op.')}"
            elif what == "upsamplers":
                has_attention = bool(getattr(net.up_blocks[i], "attentions", None))
                new = f"{block}.{per * i + per - 1}.{1 + has_attention}.{rest}"
            else:
                new = f"{block}.{k}.{int(what == 'attentions')}.{_renamed(rest, RESNET) if what == 'resnets' else rest}"
        elif middle:
            resnet = middle[1] == "resnets"
            position = 2 * int(middle[2]) if resnet else 1
            new = f"middle_block.{position}.{_renamed(middle[3], RESNET) if resnet else middle[3]}"
        else:
            new = _renamed(name, UNET)
        out[new] = value
    return out


def vae(net: Any) -> Weights:
    """Weights of an AutoencoderKL under their original names; its attention is a convolution there."""
    last = len(net.config.block_out_channels) - 1
    out: Weights = {}
    for name, value in net.state_dict().items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", new)
        attention = "attentions" in name and value.ndim == 2
        out[_renamed(new, VAE)] = value[:, :, None, None] if attention else value
    return out


def clip(net: Any) -> Weights:
    """Weights of a CLIP text encoder, without the level "text_model"."""
    return {k.removeprefix("text_model."): v for k, v in net.state_dict().items()}


def open_clip(net: Any, extra_layer: bool) -> Weights:
    """Weights of a text encoder as OpenCLIP names them: queries, keys and values joined, the projection transposed.

    Args:
        extra_layer: add the last layer, which Stable Diffusion 2 has in its files and does not use.
    """
    source: Mapping[str, Tensor] = net.state_dict()
    out: Weights = {}
    for full, value in source.items():
        name = full.removeprefix("text_model.")
        if name == "text_projection.weight":
            out["text_projection"] = value.T
        elif name == "embeddings.position_embedding.weight":
            out["positional_embedding"] = value
        elif ".q_proj." in name:
            joined = torch.cat([source[full.replace("q_proj", f"{x}_proj")] for x in "qkv"])
            out[_renamed(name.replace(".q_proj.", ".in_proj_"), OPEN_CLIP)] = joined
        elif ".k_proj." not in name and ".v_proj." not in name:
            out[_renamed(name, OPEN_CLIP)] = value
    if extra_layer:
        n = net.config.num_hidden_layers
        last = f"transformer.resblocks.{n - 1}."
        out |= {k.replace(last, f"transformer.resblocks.{n}."): v + 1 for k, v in out.items() if k.startswith(last)}
        out["text_projection"] = torch.eye(net.config.hidden_size)
    return out
