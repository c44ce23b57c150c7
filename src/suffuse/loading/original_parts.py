"""Networks filled with the weights of a file in the original key layout, their sizes read off the shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..core.errors import Damaged
from . import shapes

T = TypeVar("T")

Weights = Mapping[str, Tensor]
VAES = ("first_stage_model.", "vae.")
"""Where the autoencoder is: in the files of its authors, and in those of programs that join networks."""


def below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def configured(path: Path, function: Callable[[], T]) -> T:
    """What `function` reads off the weights; a weight that it misses is the file's damage."""
    try:
        return function()
    except (KeyError, IndexError, RuntimeError) as error:
        raise Damaged(f"{path}: the weight {error} is missing or of a wrong shape; copy it again") from error


def filled(path: Path, part: str, net: nn.Module, converted: Weights, dtype: torch.dtype) -> nn.Module:
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


def vae(path: Path, weights: Weights, dtype: torch.dtype, scale: float, shift: float | None = None) -> nn.Module | None:
    """The autoencoder, or None where the file has none."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    own = next((found for prefix in VAES if (found := below(weights, prefix))), None)
    if own is None:
        return None
    config = configured(path, lambda: shapes.vae(own, scale, shift))
    converted = configured(path, lambda: convert_ldm_vae_checkpoint(dict(own), config))
    with torch.device("meta"):
        net = AutoencoderKL.from_config(config)
    return filled(path, "vae", net, converted, dtype)


def clip(path: Path, converted: Weights, activation: str, dtype: torch.dtype, projected: bool = False) -> Any:
    """A CLIP text encoder of weights that are named as transformers names them."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = configured(path, lambda: shapes.clip(converted, activation))
    cls = CLIPTextModelWithProjection if projected else CLIPTextModel
    return filled(path, "text encoder", cls(CLIPTextConfig(**config)), converted, dtype)


def open_clip(path: Path, weights: Weights, prefix: str, dtype: torch.dtype, projected: bool) -> Any:
    """A CLIP text encoder of weights that are named as OpenCLIP names them."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = configured(path, lambda: shapes.open_clip(below(weights, prefix), projected))
    cls = CLIPTextModelWithProjection if projected else CLIPTextModel
    net = cls(CLIPTextConfig(**config))
    converted = configured(path, lambda: convert_open_clip_checkpoint(net, dict(weights), prefix))
    return filled(path, "text encoder", net, converted, dtype)


def t5(path: Path, weights: Weights, dtype: torch.dtype) -> Any:
    """A T5 encoder of weights that are named as transformers names them; its embedding may be there once or twice."""
    from transformers import T5Config, T5EncoderModel

    config = configured(path, lambda: shapes.t5(weights))
    shared = {"encoder.embed_tokens.weight": weights["shared.weight"]}
    return filled(path, "T5 encoder", T5EncoderModel(T5Config(**config)), {**shared, **weights}, dtype)
