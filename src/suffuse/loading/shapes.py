"""Configurations of networks, read off the shapes of weights in the original key layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

Weights = Mapping[str, Tensor]


def _count(weights: Weights, pattern: str) -> int:
    """How many of pattern.0, pattern.1, ... there are."""
    k = 0
    while any(name.startswith(f"{pattern}{k}.") for name in weights):
        k += 1
    return k


def unet(w: Weights, size: int, pooled: int | None) -> dict[str, Any]:
    """Of UNet2DConditionModel.

    Args:
        w: weights without "model.diffusion_model.".
        size: side of the latents that the model was released for.
        pooled: width of SDXL's pooled text; None for SD1 and SD2.
    """
    levels: list[list[tuple[int, int]]] = [[]]  # for each resnet of each level: its channels, its transformer's depth
    for i in range(1, _count(w, "input_blocks.")):
        if f"input_blocks.{i}.0.op.weight" in w:
            levels.append([])
        else:
            depth = _count(w, f"input_blocks.{i}.1.transformer_blocks.")
            levels[-1].append((w[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0], depth))
    channels, depths = [level[0][0] for level in levels], [level[0][1] for level in levels]
    middle = _count(w, "middle_block.1.transformer_blocks.")
    cross = [depth > 0 for depth in depths]
    linear = w["middle_block.1.proj_in.weight"].ndim == 2
    config: dict[str, Any] = {
        "sample_size": size,
        "in_channels": w["input_blocks.0.0.weight"].shape[1],
        "out_channels": w["out.2.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in cross],
        "up_block_types": ["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(cross)],
        # The middle block takes the last level's depth, which has no transformers of its own in SD1 and SD2.
        "transformer_layers_per_block": [*(max(d, 1) for d in depths[:-1]), middle],
        "cross_attention_dim": w["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "use_linear_projection": linear,
        # The number of heads leaves no trace in the shapes: 8 in SD1, heads of 64 channels since.
        "attention_head_dim": [max(c // 64, 1) for c in channels] if linear else 8,
    }
    if pooled is not None:
        width = w["label_emb.0.0.weight"].shape[1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (width - pooled) // 6,
            "projection_class_embeddings_input_dim": width,
        }
    return config


def vae(w: Weights, scale: float, shift: float | None = None) -> dict[str, Any]:
    """Of AutoencoderKL; `w` without "first_stage_model.".

    Args:
        scale, shift: of the latents; those of SD3 and Flux alone are shifted, and lack the convolutions around them.
    """
    levels = _count(w, "encoder.down.")
    return {
        "in_channels": w["encoder.conv_in.weight"].shape[1],
        "out_channels": w["decoder.conv_out.weight"].shape[0],
        "latent_channels": w["decoder.conv_in.weight"].shape[1],
        "block_out_channels": [w[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)],
        "layers_per_block": _count(w, "encoder.down.0.block."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": scale,
        "shift_factor": shift,
        "use_quant_conv": shift is None,
        "use_post_quant_conv": shift is None,
    }


def clip(w: Weights, activation: str) -> dict[str, Any]:
    """Of a CLIP text encoder, keys as in transformers."""
    vocabulary, width = w["text_model.embeddings.token_embedding.weight"].shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": w["text_model.embeddings.position_embedding.weight"].shape[0],
        "intermediate_size": w["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _count(w, "text_model.encoder.layers."),
        "num_attention_heads": max(width // 64, 1),
        "hidden_act": activation,
        "projection_dim": w["text_projection.weight"].shape[0] if "text_projection.weight" in w else width,
        **_special(vocabulary),
    }


def open_clip(w: Weights, projected: bool) -> dict[str, Any]:
    """Of a text encoder trained by OpenCLIP; `w` without its prefix.

    Args:
        projected: with its projection and all layers (SDXL); else without the last layer (SD2, which reads the
            penultimate one).
    """
    vocabulary, width = w["token_embedding.weight"].shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": w["positional_embedding"].shape[0],
        "intermediate_size": w["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": _count(w, "transformer.resblocks.") - (not projected),
        "num_attention_heads": max(width // 64, 1),
        "hidden_act": "gelu",
        "projection_dim": w["text_projection"].shape[1] if projected else width,
        **_special(vocabulary),
    }


def _special(vocabulary: int) -> dict[str, int]:
    """CLIP's begin and end are the last two tokens."""
    return {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": 1}


def t5(w: Weights) -> dict[str, Any]:
    """Of T5EncoderModel, version 1.1; keys as in transformers."""
    vocabulary, width = w["shared.weight"].shape
    attention = "encoder.block.0.layer.0.SelfAttention."
    heads = w[f"{attention}relative_attention_bias.weight"].shape[1]
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": w[f"{attention}q.weight"].shape[0] // heads,
        "d_ff": w["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        "num_layers": _count(w, "encoder.block."),
        "num_heads": heads,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def sd3(w: Weights) -> dict[str, Any]:
    """Of SD3Transformer2DModel; `w` without "model.diffusion_model."."""
    width, channels, patch, _ = w["x_embedder.proj.weight"].shape
    norm = w.get("joint_blocks.0.x_block.attn.ln_q.weight")
    head = 64 if norm is None else len(norm)
    layers = _count(w, "joint_blocks.")
    return {
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": w["final_layer.linear.weight"].shape[0] // patch**2,
        "num_layers": layers,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": w["context_embedder.weight"].shape[1],
        "caption_projection_dim": w["context_embedder.weight"].shape[0],
        "pooled_projection_dim": w["y_embedder.mlp.0.weight"].shape[1],
        "pos_embed_max_size": math.isqrt(w["pos_embed"].shape[1]),
        "dual_attention_layers": tuple(i for i in range(layers) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in w),
        "qk_norm": None if norm is None else "rms_norm",
    }


def flux(w: Weights) -> dict[str, Any]:
    """Of FluxTransformer2DModel; `w` without "model.diffusion_model."."""
    width, channels = w["img_in.weight"].shape
    head = len(w["double_blocks.0.img_attn.norm.query_norm.scale"])
    return {
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": w["final_layer.linear.weight"].shape[0],
        "num_layers": _count(w, "double_blocks."),
        "num_single_layers": _count(w, "single_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": w["txt_in.weight"].shape[1],
        "pooled_projection_dim": w["vector_in.in_layer.weight"].shape[1],
        "guidance_embeds": "guidance_in.in_layer.weight" in w,
    }
