"""Single files of Stable Diffusion 3 and Flux: the transformer, and what else they happen to hold.

Some hold the transformer alone, some all encoders, none T5's vocabulary. What is not in the file is taken from the
folders beside it, in diffusers' layout, as they lie in the repositories of these models.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..conditioning.clip_vocabulary import clip_tokenizer
from ..core.errors import BadInput
from . import shapes
from .original_parts import Weights, below, clip, configured, filled, t5, vae
from .original_unets import Found
from .parts import read_part

ENCODERS = "text_encoders."
NET = "model.diffusion_model."
DYNAMIC = {
    "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}  # fmt: skip

Renaming = Sequence[tuple[str, str]]

EMBEDDERS: Renaming = (
    ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    ("txt_in", "context_embedder"), ("img_in", "x_embedder"), ("final_layer.linear", "proj_out"),
)  # fmt: skip
DOUBLE: Renaming = (
    ("img_mod.lin", "norm1.linear"), ("txt_mod.lin", "norm1_context.linear"),
    ("img_attn.proj", "attn.to_out.0"), ("txt_attn.proj", "attn.to_add_out"),
    ("img_attn.norm.query_norm.scale", "attn.norm_q.weight"), ("img_attn.norm.key_norm.scale", "attn.norm_k.weight"),
    ("txt_attn.norm.query_norm.scale", "attn.norm_added_q.weight"),
    ("txt_attn.norm.key_norm.scale", "attn.norm_added_k.weight"),
    ("img_mlp.0", "ff.net.0.proj"), ("img_mlp.2", "ff.net.2"),
    ("txt_mlp.0", "ff_context.net.0.proj"), ("txt_mlp.2", "ff_context.net.2"),
)  # fmt: skip
SINGLE: Renaming = (
    ("modulation.lin", "norm.linear"), ("linear2", "proj_out"),
    ("norm.query_norm.scale", "attn.norm_q.weight"), ("norm.key_norm.scale", "attn.norm_k.weight"),
)  # fmt: skip
JOINED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}
"""Layers of Flux that are one matrix in its files; queries, keys and values are as many rows each, the rest is the
feed-forward layer."""


def accepts(names: Collection[str]) -> bool:
    """True for the weights' names in files of SD3 or Flux."""
    return _is_sd3(names) or _is_flux(names)


def read(path: Path, weights: Weights, dtype: torch.dtype) -> Found:
    """The parts of a file and of the folders beside it.

    Raises:
        BadInput: a part is in neither. Damaged: weights are missing.
    """
    if any(k.endswith("scale_weight") for k in weights):
        raise BadInput(f"{path}: its weights are scaled to 8 bits, and such files are not read; give one in 16 bits")
    own = below(weights, NET) or dict(weights)
    return (_sd3 if _is_sd3(weights) else _flux)(path, weights, own, dtype)


def _is_sd3(names: Collection[str]) -> bool:
    return any(f"{prefix}joint_blocks.0.x_block.attn.qkv.weight" in names for prefix in (NET, ""))


def _is_flux(names: Collection[str]) -> bool:
    # Flux 2 and Chroma have such blocks, too, and no pooled text.
    needed = ("double_blocks.0.img_attn.qkv.weight", "vector_in.in_layer.weight")
    return any(all(prefix + name in names for name in needed) for prefix in (NET, ""))


def _sd3(path: Path, weights: Weights, own: Weights, dtype: torch.dtype) -> Found:
    from diffusers import SD3Transformer2DModel
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    config = configured(path, lambda: shapes.sd3(own))
    converted = configured(path, lambda: convert_sd3_transformer_checkpoint_to_diffusers(dict(own)))
    with torch.device("meta"):
        net = SD3Transformer2DModel.from_config(config)
    parts: dict[str, Any] = {"transformer": filled(path, "transformer", net, converted, dtype)}
    parts["vae"] = _vae(path, weights, dtype, 1.5305, 0.0609)
    for end, name, activation, pad in (("", "clip_l", "quick_gelu", "<|endoftext|>"), ("_2", "clip_g", "gelu", "!")):
        parts |= _clip(path, weights, dtype, end, name, activation, pad, projected=True)
    parts |= _t5(path, weights, dtype, "_3") or {"text_encoder_3": None, "tokenizer_3": None}
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    return "StableDiffusion3Pipeline", parts, scheduler


def _flux(path: Path, weights: Weights, own: Weights, dtype: torch.dtype) -> Found:
    from diffusers import FluxTransformer2DModel

    config = configured(path, lambda: shapes.flux(own))
    if config["in_channels"] != config["out_channels"] or config["attention_head_dim"] != 128:
        raise BadInput(
            f"{path}: is not FLUX.1-dev or -schnell (it reads {config['in_channels']} channels in heads of "
            f"{config['attention_head_dim']}); give one of them, or a folder in diffusers' layout"
        )
    converted = configured(path, lambda: flux_names(own))
    with torch.device("meta"):
        net = FluxTransformer2DModel.from_config(config)
    parts: dict[str, Any] = {"transformer": filled(path, "transformer", net, converted, dtype)}
    parts["vae"] = _vae(path, weights, dtype, 0.3611, 0.1159)
    parts |= _clip(path, weights, dtype, "", "clip_l", "quick_gelu", "<|endoftext|>", projected=False)
    found = _t5(path, weights, dtype, "_2")
    if found is None:
        raise _lacks(path, "T5 encoder", "text_encoder_2")
    shifting = {"shift": 3.0, **DYNAMIC} if config["guidance_embeds"] else {"shift": 1.0}
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, **shifting}
    return "FluxPipeline", {**parts, **found}, scheduler


def flux_names(weights: Weights) -> dict[str, Tensor]:
    """Weights of Flux's transformer under diffusers' names, from their original ones."""
    out: dict[str, Tensor] = {}
    for name, value in weights.items():
        block = re.match(r"(double|single)_blocks\.(\d+)\.(.*)", name)
        if name.startswith("final_layer.adaLN_modulation.1."):
            # shift and scale are the other way round in diffusers
            out[f"norm_out.linear.{name.rpartition('.')[2]}"] = torch.cat(value.chunk(2)[::-1])
        elif block is None:
            out[_renamed(name, EMBEDDERS)] = value
        else:
            kind, k, rest = block.groups()
            prefix = f"transformer_blocks.{k}." if kind == "double" else f"single_transformer_blocks.{k}."
            layer, _, end = rest.rpartition(".")
            if layer in JOINED:
                width = weights[f"{name.removesuffix(rest)}{'linear2' if kind == 'single' else 'img_attn.proj'}.bias"]
                rows = [len(width)] * 3 + [len(value) - 3 * len(width)] * (len(JOINED[layer]) - 3)
                pieces = zip(JOINED[layer], value.split(rows), strict=True)
                out |= {f"{prefix}{piece}.{end}": part for piece, part in pieces}
            else:
                out[prefix + _renamed(rest, DOUBLE if kind == "double" else SINGLE)] = value
    return out


def _renamed(name: str, rules: Renaming) -> str:
    for old, new in rules:
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def _vae(path: Path, weights: Weights, dtype: torch.dtype, scale: float, shift: float) -> nn.Module:
    found = vae(path, weights, dtype, scale, shift) or _beside(path, "vae", "diffusers", "AutoencoderKL", dtype)
    if found is None:
        raise _lacks(path, "autoencoder", "vae")
    return found


def _clip(
    path: Path, weights: Weights, dtype: torch.dtype, end: str, name: str, activation: str, pad: str, projected: bool
) -> dict[str, Any]:
    own = below(weights, f"{ENCODERS}{name}.transformer.")
    if own:
        if projected and name == "clip_l":
            # SD3 reads the pooled state of its first encoder without a projection, whatever the file holds.
            width = configured(path, lambda: own["text_model.final_layer_norm.bias"].shape[0])
            own["text_projection.weight"] = torch.eye(width)
        encoder: Any = clip(path, own, activation, dtype, projected)
    else:
        cls = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
        encoder = _beside(path, f"text_encoder{end}", "transformers", cls, dtype)
    if encoder is None:
        raise _lacks(path, f"text encoder {name}", f"text_encoder{end}")
    return {f"text_encoder{end}": encoder, f"tokenizer{end}": clip_tokenizer(pad=pad)}


def _t5(path: Path, weights: Weights, dtype: torch.dtype, end: str) -> dict[str, Any] | None:
    own = below(weights, f"{ENCODERS}t5xxl.transformer.")
    encoder = (
        t5(path, own, dtype) if own else _beside(path, f"text_encoder{end}", "transformers", "T5EncoderModel", dtype)
    )
    if encoder is None:
        return None
    tokenizer = _beside(path, f"tokenizer{end}", "transformers", "T5TokenizerFast", dtype)
    if tokenizer is None:
        raise _lacks(path, "vocabulary of its T5", f"tokenizer{end}")
    return {f"text_encoder{end}": encoder, f"tokenizer{end}": tokenizer}


def _beside(path: Path, name: str, library: str, cls: str, dtype: torch.dtype) -> Any:
    folder = path.parent / name
    return read_part(folder, library, cls, dtype, None) if folder.is_dir() else None


def _lacks(path: Path, what: str, name: str) -> BadInput:
    return BadInput(f"{path}: has no {what}; put the folder {name!r} of the model's repository beside it")
