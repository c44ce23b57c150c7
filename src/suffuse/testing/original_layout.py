"""Stock pipelines written as single-file checkpoints in the original key layout: the way back from diffusers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..loading import original_transformers

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


SD3: Renaming = (
    ("pos_embed.pos_embed", "pos_embed"), ("pos_embed.proj", "x_embedder.proj"),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("proj_out", "final_layer.linear"), ("norm_out.linear", "final_layer.adaLN_modulation.1"),
)  # fmt: skip
JOINT: Renaming = (
    ("attn.norm_added_q", "context_block.attn.ln_q"), ("attn.norm_added_k", "context_block.attn.ln_k"),
    ("attn.norm_q", "x_block.attn.ln_q"), ("attn.norm_k", "x_block.attn.ln_k"),
    ("attn2.norm_q", "x_block.attn2.ln_q"), ("attn2.norm_k", "x_block.attn2.ln_k"),
    ("attn.to_out.0", "x_block.attn.proj"), ("attn2.to_out.0", "x_block.attn2.proj"),
    ("attn.to_add_out", "context_block.attn.proj"),
    ("norm1.linear", "x_block.adaLN_modulation.1"), ("norm1_context.linear", "context_block.adaLN_modulation.1"),
    ("ff.net.0.proj", "x_block.mlp.fc1"), ("ff.net.2", "x_block.mlp.fc2"),
    ("ff_context.net.0.proj", "context_block.mlp.fc1"), ("ff_context.net.2", "context_block.mlp.fc2"),
)  # fmt: skip
QKV = {
    "attn.to_q": ("x_block.attn.qkv", ("attn.to_q", "attn.to_k", "attn.to_v")),
    "attn2.to_q": ("x_block.attn2.qkv", ("attn2.to_q", "attn2.to_k", "attn2.to_v")),
    "attn.add_q_proj": ("context_block.attn.qkv", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
}
"""The first of layers that are one in SD3's files -> their name there, and all of them."""


def write(pipe: Any, path: Path) -> Path:
    """Write a Stable Diffusion 1, 2, XL or 3 or a Flux pipeline of diffusers as one safetensors file.

    That of SD3 and Flux holds all networks, and as in theirs, none of the vocabularies.
    """
    if hasattr(pipe, "transformer"):
        weights = _with_transformer(pipe)
    else:
        weights = _with_unet(pipe)
    save_file({k: v.contiguous().clone() for k, v in weights.items()}, path)
    return path


def _with_unet(pipe: Any) -> Weights:
    weights = _below("model.diffusion_model.", unet(pipe.unet)) | _below("first_stage_model.", vae(pipe.vae))
    if hasattr(pipe, "text_encoder_2"):
        weights |= _below("conditioner.embedders.0.transformer.text_model.", clip(pipe.text_encoder))
        weights |= _below("conditioner.embedders.1.model.", open_clip(pipe.text_encoder_2, extra_layer=False))
    elif pipe.text_encoder.config.hidden_act == "gelu":
        weights |= _below("cond_stage_model.model.", open_clip(pipe.text_encoder, extra_layer=True))
    else:
        weights |= _below("cond_stage_model.transformer.text_model.", clip(pipe.text_encoder))
    return weights


def _with_transformer(pipe: Any) -> Weights:
    names, t5 = {"text_encoder": "clip_l"}, "text_encoder_2"
    if hasattr(pipe, "text_encoder_3"):
        names, t5 = {**names, "text_encoder_2": "clip_g"}, "text_encoder_3"
        weights = _below("model.diffusion_model.", sd3(pipe.transformer)) | _below("first_stage_model.", vae(pipe.vae))
    else:
        weights = _below("model.diffusion_model.", flux(pipe.transformer)) | _below("vae.", vae(pipe.vae))
    for part, name in names.items():
        found = clip(getattr(pipe, part))
        level = {k if k.startswith("text_projection.") else f"text_model.{k}": v for k, v in found.items()}
        weights |= _below(f"text_encoders.{name}.transformer.", level)
    encoder = getattr(pipe, t5)
    return weights | _below("text_encoders.t5xxl.transformer.", encoder.state_dict() if encoder else {})


def _below(prefix: str, weights: Weights) -> Weights:
    return {prefix + k: v for k, v in weights.items()}


def _renamed(name: str, rules: Renaming) -> str:
    for new, old in rules:
        name = re.sub(rf"(^|\.){re.escape(new)}(?=\.|$)", rf"\g<1>{old}", name)
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


def sd3(net: Any) -> Weights:
    """Weights of an SD3Transformer2DModel under their original names."""
    source: Mapping[str, Tensor] = net.state_dict()
    last = f"transformer_blocks.{net.config.num_layers - 1}.norm1_context."
    out: Weights = {}
    for name, value in source.items():
        if name.startswith(("norm_out.", last)):
            value = torch.cat(value.chunk(2)[::-1])
        block = re.match(r"transformer_blocks\.(\d+)\.(.*)\.(weight|bias)", name)
        if block is None:
            out[_renamed(name, SD3)] = value
            continue
        k, layer, end = block.groups()
        if layer in QKV:
            new, layers = QKV[layer]
            value = torch.cat([source[f"transformer_blocks.{k}.{one}.{end}"] for one in layers])
            out[f"joint_blocks.{k}.{new}.{end}"] = value
        elif not any(layer in layers for _, layers in QKV.values()):
            out[f"joint_blocks.{k}.{_renamed(layer, JOINT)}.{end}"] = value
    return out


def flux(net: Any) -> Weights:
    """Weights of a FluxTransformer2DModel under their original names: the loader's table, read backwards."""
    source: Mapping[str, Tensor] = net.state_dict()
    out: Weights = {}
    for name, value in source.items():
        block = re.match(r"(single_)?transformer_blocks\.(\d+)\.(.*)", name)
        if name.startswith("norm_out.linear."):
            value = torch.cat(value.chunk(2)[::-1])
            out[name.replace("norm_out.linear", "final_layer.adaLN_modulation.1")] = value
        elif block is None:
            out[_renamed(name, _turned(original_transformers.EMBEDDERS))] = value
        else:
            single, k, rest = block.groups()
            prefix = f"single_blocks.{k}." if single else f"double_blocks.{k}."
            layer, _, end = rest.rpartition(".")
            table = original_transformers.SINGLE if single else original_transformers.DOUBLE
            joined = [
                (j, layers) for j, layers in original_transformers.JOINED.items() if (j == "linear1") == bool(single)
            ]
            found = next(((j, layers) for j, layers in joined if layer in layers), None)
            if found is None:
                new = {before: after for after, before in table}.get(rest) or _renamed(
                    layer, _turned(table)
                ) + f".{end}"
                out[prefix + new] = value
            elif layer == found[1][0]:
                whole = torch.cat([source[f"{name.removesuffix(rest)}{one}.{end}"] for one in found[1]])
                out[f"{prefix}{found[0]}.{end}"] = whole
    return out


def _turned(rules: Renaming) -> Renaming:
    return [(new, old) for old, new in rules]
