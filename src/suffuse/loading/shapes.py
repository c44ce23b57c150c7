"""Configurations of Stable Diffusion's networks, read off the shapes of weights in the original key layout."""

from __future__ import annotations

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


def vae(w: Weights, scale: float) -> dict[str, Any]:
    """Of AutoencoderKL; `w` without "first_stage_model."."""
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
        "projection_dim": width,
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
