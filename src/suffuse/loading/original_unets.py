"""Single files of Stable Diffusion 1, 2 and XL: all parts are in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..conditioning.clip_vocabulary import clip_tokenizer
from ..core.errors import BadInput, Damaged
from . import shapes
from .original_parts import Weights, below, clip, configured, filled, open_clip, vae

UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"
"""The weight by which these files are recognised."""

TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
RELEASED = {"set_alpha_to_one": False, "steps_offset": 1}

Found = tuple[str, dict[str, Any], dict[str, Any]]
"""Pipeline class, parts by diffusers' names, configuration of the scheduler."""


def read(path: Path, weights: Weights, dtype: torch.dtype) -> Found:
    """The parts of a file; inpainting models have UNets of nine channels."""
    if "conditioner.embedders.0.model.text_projection" in weights:
        raise BadInput(f"{path}: SDXL's refiner is not supported; give the base model")
    if not any(k.startswith(("cond_stage_model.", "conditioner.")) for k in weights):
        raise BadInput(f"{path}: has no text encoder; give a whole checkpoint, or a folder in diffusers' layout")
    if "conditioner.embedders.1.model.token_embedding.weight" in weights:
        pipeline, parts, scheduler = _sdxl(path, weights, dtype)
    elif "cond_stage_model.model.token_embedding.weight" in weights:
        pipeline, parts, scheduler = _sd2(path, weights, dtype)
    else:
        pipeline, parts, scheduler = _sd1(path, weights, dtype)
    if parts["unet"].config.in_channels == 9:
        pipeline = pipeline.replace("Pipeline", "InpaintPipeline")
    return pipeline, parts, scheduler


def _sd1(path: Path, weights: Weights, dtype: torch.dtype) -> Found:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

    prefix = "cond_stage_model.transformer."
    # The oldest files leave out one level of the text encoder's names.
    old = {k: v for k, v in weights.items() if k.startswith(prefix) and not k.startswith(f"{prefix}text_model.")}
    weights = {**weights, **{k.replace(prefix, f"{prefix}text_model."): v for k, v in old.items()}}
    encoder = clip(path, convert_ldm_clip_checkpoint(weights), "quick_gelu", dtype)
    parts = {"unet": _unet(path, weights, 64, dtype), "vae": _vae(path, weights, dtype, 0.18215),
             "text_encoder": encoder, "tokenizer": clip_tokenizer()}  # fmt: skip
    scheduler = {
        "_class_name": "PNDMScheduler",
        **TABLE,
        **RELEASED,
        "skip_prk_steps": True,
        "prediction_type": "epsilon",
    }
    return "StableDiffusionPipeline", parts, scheduler


def _sd2(path: Path, weights: Weights, dtype: torch.dtype) -> Found:
    encoder = open_clip(path, weights, "cond_stage_model.model.", dtype, projected=False)
    inpainting = weights[FIRST].shape[1] == 9
    unet = _unet(path, weights, 64 if inpainting else 96, dtype)
    parts = {
        "unet": unet,
        "vae": _vae(path, weights, dtype, 0.18215),
        "text_encoder": encoder,
        "tokenizer": clip_tokenizer(pad="!"),
    }
    kind = "epsilon" if inpainting else "v_prediction"
    scheduler = {"_class_name": "DDIMScheduler", **TABLE, **RELEASED, "clip_sample": False, "prediction_type": kind}
    return "StableDiffusionPipeline", parts, scheduler


def _sdxl(path: Path, weights: Weights, dtype: torch.dtype) -> Found:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

    two = open_clip(path, weights, "conditioner.embedders.1.model.", dtype, projected=True)
    parts = {
        "unet": _unet(path, weights, 128, dtype, pooled=two.config.projection_dim),
        "vae": _vae(path, weights, dtype, 0.13025),
        "text_encoder": clip(path, convert_ldm_clip_checkpoint(weights), "quick_gelu", dtype),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": two,
        "tokenizer_2": clip_tokenizer(pad="!"),
    }
    scheduler = {"_class_name": "EulerDiscreteScheduler", **TABLE, "timestep_spacing": "leading", "steps_offset": 1,
                 "prediction_type": "v_prediction" if "v_pred" in weights else "epsilon"}  # fmt: skip
    if "ztsnr" in weights:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return "StableDiffusionXLPipeline", parts, scheduler


def _unet(path: Path, weights: Weights, size: int, dtype: torch.dtype, pooled: int | None = None) -> nn.Module:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = configured(path, lambda: shapes.unet(below(weights, UNET), size, pooled))
    converted = configured(path, lambda: convert_ldm_unet_checkpoint(dict(weights), config))
    with torch.device("meta"):
        net = UNet2DConditionModel.from_config(config)
    return filled(path, "unet", net, converted, dtype)


def _vae(path: Path, weights: Weights, dtype: torch.dtype, scale: float) -> nn.Module:
    found = vae(path, weights, dtype, scale)
    if found is None:
        raise Damaged(f"{path}: has no autoencoder; copy it again")
    return found
