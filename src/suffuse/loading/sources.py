"""What a name stands for: a bundled model, a folder, a file, or a repository on the hub; told by content."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..core.arguments import one_of
from ..core.errors import BadInput, Damaged, nearest
from ..core.files import read_json
from ..core.model import Model

CARD = "card.json"
BUNDLED = Path(__file__).parents[1] / "zoo" / "models"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load(
    name: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    variant: str | None = None,
    torch_dtype: torch.dtype | None = None,
) -> Model:
    """A model, ready to run.

    Args:
        name: a bundled model ("shapes"), a folder in diffusers' layout, a single safetensors file, or a repository on
            the hub ("owner/name"), fetched if it is not on this machine yet (HF_HUB_OFFLINE=1 forbids it). Files of
            adapters may follow, with their strength: "shapes + 0.8*style.safetensors + other.safetensors".
        dtype: of the weights (diffusers' `torch_dtype`); default float32, also for files in half precision. On a CPU
            bfloat16 may be faster, float16 is twenty times slower and refused.
        device: where to put it; default the CPU.
        variant: of the files, such as "fp16".

    Raises:
        BadInput: nothing of this name, or not a model that is known. Damaged: a file is missing or damaged, by name.
    """
    device, dtype = _device(device), one_of("dtype", dtype, "torch_dtype", torch_dtype, torch.float32)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise BadInput(f"dtype={dtype!r}: must be one of torch.float32, torch.bfloat16 and torch.float16")
    if dtype == torch.float16 and device.type == "cpu":
        raise BadInput(
            "dtype=torch.float16: runs twenty times slower than bfloat16 on a CPU; give torch.bfloat16 or leave it out"
        )
    text, *adapters = [os.fspath(name)] if Path(name).exists() else os.fspath(name).split(" + ")
    path = Path(text)
    if text in bundled():
        model = _folder(BUNDLED / text, dtype, variant, text)
    elif path.is_dir():
        model = _folder(path, dtype, variant, path.resolve().name)
    elif path.is_file():
        from .single_file import read

        model = read(path, dtype)
    elif HUB_ID.fullmatch(text):
        from .hub import fetch

        model = _folder(fetch(text, variant), dtype, variant, text)
    else:
        raise BadInput(
            f"model {text!r}: no bundled model, folder, file or hub id (owner/name); {nearest(text, bundled())}"
        )
    for adapter in adapters:
        model = _adapted(model, adapter.strip())
    return model.to(device)


def _device(named: torch.device | str | None) -> torch.device:
    """A device that this machine has."""
    try:
        return torch.empty(0, device=named or "cpu").device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise BadInput(f"device={str(named)!r}: cannot be used here ({why:.90}); give another, or none") from error


def _adapted(model: Model, said: str) -> Model:
    """With the adapters of a file, "0.8*style.safetensors"."""
    from ..adapters.reading import load_adapters, with_adapters

    scale, file = re.fullmatch(r"(?:([-+]?[\d.]+(?:e[-+]?\d+)?)\*)?(.*)", said).groups()  # type: ignore[union-attr]
    try:
        strength = float(scale) if scale else None
    except ValueError as error:
        raise BadInput(f"model: {scale!r} is no strength of {file}; give a number, as in 0.8*{file}") from error
    adapters = load_adapters(file, model, strength)
    named = [*model.named, *(adapter for found in adapters.values() for adapter in found)]
    return replace(with_adapters(model, adapters), name=f"{model.name} + {said}", named=named)


def bundled() -> list[str]:
    """Names of the models that come with suffuse."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/model_index.json"))


def _folder(folder: Path, dtype: torch.dtype, variant: str | None, name: str) -> Model:
    from .folder import read

    model = read(folder, dtype, variant, name)
    card = folder / CARD
    return replace(model, defaults=replace(model.defaults, **_defaults(card))) if card.is_file() else model


def _defaults(card: Path) -> dict[str, Any]:
    """How a model's card says that it is best run: steps, guidance, sampler, spacing; all but the first expressions."""
    from ..core.expression import parse

    said = read_json(card).get("defaults", {})
    unknown = set(said) - {"steps", "guidance", "sampler", "spacing"}
    if unknown:
        raise Damaged(f"{card}: unknown default {min(unknown)!r}; it may name steps, guidance, sampler and spacing")
    return {name: parse(value) if isinstance(value, str) else value for name, value in said.items()}


from_pretrained = load
"""diffusers' name of `load`."""
