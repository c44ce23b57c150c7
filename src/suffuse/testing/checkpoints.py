"""Tiny stock pipelines that a single-file checkpoint can hold: with CLIP's whole vocabulary and sizes of its layout."""

from __future__ import annotations

from typing import Any

import torch

from ..conditioning.clip_vocabulary import clip_tokenizer
from .pipelines import PIPELINES, autoencoder, clip_encoder, seeded, t5_encoder, text_unet
from .tokenizers import t5_tokenizer


def checkpoint(name: str) -> Any:
    """The pipeline "sd1", "sd2", "sdxl", "sd3" or "flux"."""
    return {"sd3": _sd3, "flux": _flux}[name]() if name in ("sd3", "flux") else _unets(name)


def _unets(name: str) -> Any:
    tokenizer = clip_tokenizer(pad="!" if name == "sd2" else "<|endoftext|>")
    wide: dict[str, Any] = {"block_out_channels": (32, 64), "norm_num_groups": 32, "sample_size": 64}
    linear: dict[str, Any] = {"use_linear_projection": True, "attention_head_dim": (1, 1)}
    encoder = clip_encoder(tokenizer, 16, activation="gelu" if name == "sd2" else "quick_gelu")
    parts = {"vae": autoencoder(width=32), "tokenizer": tokenizer, "text_encoder": encoder}
    pipe = PIPELINES[name]()
    if name == "sdxl":
        second = clip_tokenizer(pad="!")
        parts |= {"tokenizer_2": second, "text_encoder_2": clip_encoder(second, 24, True, "gelu")}
        sizes = {
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24 + 6 * 8,
        }
        parts["unet"] = text_unet(16 + 24, **wide, **linear, **sizes)
        parts["vae"].register_to_config(scaling_factor=0.13025)
    else:
        parts["unet"] = text_unet(16, **wide, **(linear if name == "sd2" else {"attention_head_dim": 8}))
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return type(pipe)(scheduler=pipe.scheduler, **parts)


def _sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    one, two, three = clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer()
    transformer = seeded(
        lambda: SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=64,
            num_attention_heads=1,
            caption_projection_dim=64,
            joint_attention_dim=48,
            pooled_projection_dim=16 + 24,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
    )
    first = clip_encoder(one, 16, True)
    with torch.no_grad():
        first.text_projection.weight.copy_(torch.eye(16))  # SD3 reads its first encoder without a projection
    return StableDiffusion3Pipeline(
        transformer=transformer,
        vae=_vae(1.5305, 0.0609),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=first,
        tokenizer=one,
        text_encoder_2=clip_encoder(two, 24, True, "gelu"),
        tokenizer_2=two,
        text_encoder_3=t5_encoder(three, 48),
        tokenizer_3=three,
    )


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    one, two = clip_tokenizer(), t5_tokenizer()
    transformer = seeded(
        lambda: FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=128,
            num_attention_heads=1,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=True,
        )
    )
    return FluxPipeline(
        transformer=transformer,
        vae=_vae(0.3611, 0.1159),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        text_encoder=clip_encoder(one),
        tokenizer=one,
        text_encoder_2=t5_encoder(two),
        tokenizer_2=two,
    )


def _vae(scale: float, shift: float) -> Any:
    found = autoencoder(shift=shift, width=32)
    found.register_to_config(scaling_factor=scale)
    return found
