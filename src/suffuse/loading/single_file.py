"""Single-file checkpoints of Stable Diffusion 1, 2 and XL in their original key layout.

Such a file holds weights only: sizes are read off their shapes, keys are renamed by diffusers' own converters, and what
is nowhere in it (noise table, vocabulary) is that of the family it belongs to. Nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..conditioning.clip_vocabulary import clip_tokenizer
from ..core.errors import BadInput, Damaged
from ..core.model import Model
from . import shapes
from .parts import CONVERT, check_weights
from .pipelines import assemble
from .prediction_kind import predicts_noise

Weights = Mapping[str, Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
RELEASED = {"set_alpha_to_one": False, "steps_offset": 1}


def read(path: Path, dtype: torch.dtype) -> Model:
    """The model in a file, told by its content.

    Raises:
        BadInput: pickled weights, a LoRA, a single network, or an architecture that is not known in this form.
        Damaged: cut off, or weights are missing.
    """
    weights, metadata = _weights(path)
    if "conditioner.embedders.1.model.token_embedding.weight" in weights:
        pipeline, parts, scheduler = _sdxl(path, weights, dtype)
    elif "cond_stage_model.model.token_embedding.weight" in weights:
        pipeline, parts, scheduler = _sd2(path, weights, dtype)
    else:
        pipeline, parts, scheduler = _sd1(path, weights, dtype)
    if parts["unet"].config.in_channels == 9:
        pipeline = pipeline.replace("Pipeline", "InpaintPipeline")
    others = {} if "XL" in pipeline else {"requires_safety_checker": False}
    model = assemble(pipeline, parts, scheduler, others=others, name=path.name)
    if pipeline == "StableDiffusionPipeline" and scheduler["prediction_type"] == "v_prediction":
        # Stable Diffusion 2 was released in two kinds, which neither shapes nor keys tell apart: 768 pixels and 512.
        said = metadata.get("modelspec.prediction_type")
        if said in ("epsilon", "eps") or (said is None and predicts_noise(model)):
            parts["unet"].register_to_config(sample_size=64)
            return assemble(pipeline, parts, {**scheduler, "prediction_type": "epsilon"}, others=others, name=path.name)
    return model


def _sd1(path: Path, weights: Weights, dtype: torch.dtype) -> tuple[str, dict[str, Any], dict[str, Any]]:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

    prefix = "cond_stage_model.transformer."
    # The oldest files leave out one level of the text encoder's names.
    old = {k: v for k, v in weights.items() if k.startswith(prefix) and not k.startswith(f"{prefix}text_model.")}
    weights = {**weights, **{k.replace(prefix, f"{prefix}text_model."): v for k, v in old.items()}}
    encoder = _clip(path, convert_ldm_clip_checkpoint(weights), "quick_gelu", dtype)
    parts = {"unet": _unet(path, weights, 64, dtype), "vae": _vae(path, weights, 0.18215, dtype),
             "text_encoder": encoder, "tokenizer": clip_tokenizer()}  # fmt: skip
    scheduler = {
        "_class_name": "PNDMScheduler",
        **TABLE,
        **RELEASED,
        "skip_prk_steps": True,
        "prediction_type": "epsilon",
    }
    return "StableDiffusionPipeline", parts, scheduler


def _sd2(path: Path, weights: Weights, dtype: torch.dtype) -> tuple[str, dict[str, Any], dict[str, Any]]:
    encoder = _open_clip(path, weights, "cond_stage_model.model.", dtype, projected=False)
    inpainting = weights[f"{UNET}input_blocks.0.0.weight"].shape[1] == 9
    unet = _unet(path, weights, 64 if inpainting else 96, dtype)
    parts = {
        "unet": unet,
        "vae": _vae(path, weights, 0.18215, dtype),
        "text_encoder": encoder,
        "tokenizer": clip_tokenizer(pad="!"),
    }
    kind = "epsilon" if inpainting else "v_prediction"
    scheduler = {"_class_name": "DDIMScheduler", **TABLE, **RELEASED, "clip_sample": False, "prediction_type": kind}
    return "StableDiffusionPipeline", parts, scheduler


def _sdxl(path: Path, weights: Weights, dtype: torch.dtype) -> tuple[str, dict[str, Any], dict[str, Any]]:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

    two = _open_clip(path, weights, "conditioner.embedders.1.model.", dtype, projected=True)
    parts = {
        "unet": _unet(path, weights, 128, dtype, pooled=two.config.projection_dim),
        "vae": _vae(path, weights, 0.13025, dtype),
        "text_encoder": _clip(path, convert_ldm_clip_checkpoint(weights), "quick_gelu", dtype),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": two,
        "tokenizer_2": clip_tokenizer(pad="!"),
    }
    scheduler = {"_class_name": "EulerDiscreteScheduler", **TABLE, "timestep_spacing": "leading", "steps_offset": 1,
                 "prediction_type": "v_prediction" if "v_pred" in weights else "epsilon"}  # fmt: skip
    if "ztsnr" in weights:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return "StableDiffusionXLPipeline", parts, scheduler


def _weights(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Tensors and metadata of a file that holds a whole checkpoint."""
    from safetensors import safe_open

    with open(path, "rb") as file:
        head = file.read(9)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise BadInput(f"{path}: pickled weights can run code and are not read; {CONVERT}")
    if head[8:9] != b"{":
        raise BadInput(f"{path}: is not a safetensors file; give one, or a folder in diffusers' layout")
    check_weights(path)
    with safe_open(path, "pt") as file:
        keys = set(file.keys())
        _check_keys(path, keys)
        weights = {k: file.get_tensor(k) for k in keys if not k.startswith("model_ema.")}
        return weights, file.metadata() or {}


def _check_keys(path: Path, keys: set[str]) -> None:
    if f"{UNET}input_blocks.0.0.weight" in keys:
        if "conditioner.embedders.0.model.text_projection" in keys:
            raise BadInput(f"{path}: SDXL's refiner is not supported; give the base model")
        if not any(k.startswith(("cond_stage_model.", "conditioner.")) for k in keys):
            raise BadInput(f"{path}: has no text encoder; give a whole checkpoint, or a folder in diffusers' layout")
        return
    if any("lora" in k or "hada_" in k or "lokr_" in k for k in keys):
        raise BadInput(f"{path}: holds an adapter, not a model; load its model, and then this file onto it")
    if any(re.search(r"(double|joint)_blocks\.0\.", k) for k in keys):
        raise BadInput(f"{path}: single files of SD3 and Flux are not read; give the folder in diffusers' layout")
    if any(k.startswith(("down_blocks.", "transformer_blocks.", "encoder.down_blocks.")) for k in keys):
        raise BadInput(
            f"{path}: holds one network, not a whole model; give the folder in diffusers' layout that it is from"
        )
    raise BadInput(
        f"{path}: weights of no known model (such as {min(keys, default='none')!r}); give one of SD1, SD2 or SDXL"
    )


def _unet(path: Path, weights: Weights, size: int, dtype: torch.dtype, pooled: int | None = None) -> nn.Module:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = _configured(path, lambda: shapes.unet(_below(weights, UNET), size, pooled))
    converted = _configured(path, lambda: convert_ldm_unet_checkpoint(dict(weights), config))
    with torch.device("meta"):
        net = UNet2DConditionModel.from_config(config)
    return _filled(path, "unet", net, converted, dtype)


def _vae(path: Path, weights: Weights, scale: float, dtype: torch.dtype) -> nn.Module:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = _configured(path, lambda: shapes.vae(_below(weights, VAE), scale))
    converted = _configured(path, lambda: convert_ldm_vae_checkpoint(dict(weights), config))
    with torch.device("meta"):
        net = AutoencoderKL.from_config(config)
    return _filled(path, "vae", net, converted, dtype)


def _clip(path: Path, converted: Weights, activation: str, dtype: torch.dtype) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = _configured(path, lambda: shapes.clip(converted, activation))
    return _filled(path, "text encoder", CLIPTextModel(CLIPTextConfig(**config)), converted, dtype)


def _open_clip(path: Path, weights: Weights, prefix: str, dtype: torch.dtype, projected: bool) -> Any:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = _configured(path, lambda: shapes.open_clip(_below(weights, prefix), projected))
    cls = CLIPTextModelWithProjection if projected else CLIPTextModel
    net = cls(CLIPTextConfig(**config))
    converted = _configured(path, lambda: convert_open_clip_checkpoint(net, dict(weights), prefix))
    return _filled(path, "text encoder", net, converted, dtype)


def _below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _configured(path: Path, function: Any) -> Any:
    """What `function` reads off the weights; a weight that it misses is the file's damage."""
    try:
        return function()
    except (KeyError, IndexError, RuntimeError) as error:
        raise Damaged(f"{path}: the weight {error} is missing or of a wrong shape; copy it again") from error


def _filled(path: Path, part: str, net: nn.Module, converted: Weights, dtype: torch.dtype) -> nn.Module:
    """`net` with its weights; names that begin with text_model where the class has no such level are shortened."""
    wanted = net.state_dict()
    named = {k if k in wanted else k.removeprefix("text_model."): v for k, v in converted.items()}
    lost = [k for k, v in wanted.items() if k not in named or named[k].shape != v.shape]
    if lost:
        raise Damaged(
            f"{path}: {len(lost)} weights of the {part} are missing or misshapen, such as {lost[0]!r}; copy it again"
        )
    net.load_state_dict({k: named[k].to(dtype).contiguous() for k in wanted}, assign=True)
    return net.eval().requires_grad_(True)
