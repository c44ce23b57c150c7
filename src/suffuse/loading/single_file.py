"""Checkpoints in one file, in their authors' key layout: Stable Diffusion 1, 2, XL and 3, Flux.

Such a file holds weights only: sizes are read off their shapes, and what is nowhere in it (noise table, CLIP's
vocabulary) is that of the family it belongs to. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.model import Model
from . import original_transformers, original_unets
from .parts import CONVERT, check_weights
from .pipelines import assemble
from .prediction_kind import predicts_noise


def read(path: Path, dtype: torch.dtype) -> Model:
    """The model in a file, told by its content.

    Raises:
        BadInput: pickled weights, a LoRA, a single network, or an architecture that is not known in this form.
        Damaged: cut off, or weights are missing.
    """
    weights, metadata = _weights(path)
    family = original_transformers if original_transformers.accepts(weights) else original_unets
    pipeline, parts, scheduler = family.read(path, weights, dtype)
    others = {"requires_safety_checker": False} if pipeline.startswith("StableDiffusionPipeline") else {}
    model = assemble(pipeline, parts, scheduler, others=others, name=path.name)
    if pipeline == "StableDiffusionPipeline" and scheduler["prediction_type"] == "v_prediction":
        # Stable Diffusion 2 was released in two kinds, which neither shapes nor keys tell apart: 768 pixels and 512.
        said = metadata.get("modelspec.prediction_type")
        if said in ("epsilon", "eps") or (said is None and predicts_noise(model)):
            parts["unet"].register_to_config(sample_size=64)
            return assemble(pipeline, parts, {**scheduler, "prediction_type": "epsilon"}, others=others, name=path.name)
    return model


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
    if original_unets.FIRST in keys or original_transformers.accepts(keys):
        return
    if any("lora" in k or "hada_" in k or "lokr_" in k for k in keys):
        raise BadInput(f"{path}: holds an adapter, not a model; load its model, and then this file onto it")
    if any(k.startswith(("down_blocks.", "transformer_blocks.", "encoder.down_blocks.")) for k in keys):
        raise BadInput(
            f"{path}: holds one network, not a whole model; give the folder in diffusers' layout that it is from"
        )
    raise BadInput(
        f"{path}: weights of no known model (such as {min(keys, default='none')!r}); give one of SD1, SD2, SDXL, "
        "SD3 or Flux"
    )
