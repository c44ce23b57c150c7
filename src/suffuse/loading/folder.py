"""Pipelines in diffusers' layout: model_index.json and a folder for each part."""

from __future__ import annotations

import inspect
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones.encoder import Encoder
from ..core.errors import BadInput, Damaged, Refused
from ..core.files import read_json, write_json
from ..core.model import Model
from ..core.plugin import Plugin
from .parts import UNUSED, quiet, read_part
from .pipelines import assemble

INDEX = "model_index.json"
BAKE = "merge adapters into the weights by model.baked()"


def read(folder: Path, dtype: torch.dtype, variant: str | None, name: str) -> Model:
    """The model stored in a folder.

    Raises:
        BadInput: not a pipeline, or one that is not known. Damaged: a part is missing or damaged; the message names it.
    """
    if not (folder / INDEX).exists():
        if (folder / "config.json").exists():
            raise BadInput(
                f"{folder}: holds one network, not a whole model; give the folder above it, the one with {INDEX}"
            )
        raise BadInput(f"{folder}: has no {INDEX}; give a folder in diffusers' layout, or a safetensors file")
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise Damaged(f"{folder / INDEX} names no pipeline class; copy it again")
    parts: dict[str, Any] = {}
    others: dict[str, Any] = {}
    scheduler: dict[str, Any] = {}
    for key, value in index.items():
        if key.startswith("_"):
            continue
        if not (isinstance(value, list) and len(value) == 2 and all(isinstance(v, (str, type(None))) for v in value)):
            others[key] = value
        elif key in UNUSED:
            continue
        elif value[1] is None:
            parts[key] = None
        elif key == "scheduler":
            scheduler = {"_class_name": value[1], **read_json(folder / key / "scheduler_config.json")}
        else:
            parts[key] = read_part(folder / key, value[0], value[1], dtype, variant)
    return assemble(index["_class_name"], parts, scheduler, others=others, name=name)


def save(model: Model, folder: Path) -> Path:
    """Write a model; a model that stands in `folder` already is replaced when the new one is complete.

    Raises:
        Refused: adapters or patches on its network, text encoders or codec, which this layout cannot hold.
        BadInput: `folder` holds something else.
    """
    if changes := _changes(model):
        raise Refused(f"save_pretrained: diffusers' layout cannot hold {changes[0]}; {BAKE}, or save them apart")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / INDEX).exists())):
        raise BadInput(f"folder: {folder} exists and is not a model; give a new name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.{end}") for end in ("part", "old"))
    try:
        temporary.mkdir()
        _write(model, temporary)
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return folder


def _write(model: Model, folder: Path) -> None:
    import diffusers

    index: dict[str, Any] = {
        "_class_name": model.layout.pipeline,
        "_diffusers_version": diffusers.__version__,
        **model.layout.others,
    }
    with quiet():
        for name, part in _plain(model).items():
            index[name] = [None, None] if part is None else [type(part).__module__.split(".")[0], type(part).__name__]
            if isinstance(part, nn.Module):
                part.save_pretrained(folder / name, safe_serialization=True)  # type: ignore[operator]
            elif part is not None:
                part.save_pretrained(folder / name)
    scheduler = dict(model.layout.scheduler)
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (folder / "scheduler").mkdir()
    # Not by write_json: configurations of diffusers may hold -Infinity.
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n")
    write_json(
        folder / INDEX,
        {**index, **{name: [None, None] for name in UNUSED if name in _signature(model.layout.pipeline)}},
    )


def pipeline(model: Model) -> Any:
    """diffusers' pipeline of the model's own modules."""
    import diffusers

    if changes := _changes(model):
        raise Refused(f"to_diffusers: a stock pipeline cannot run {changes[0]}; {BAKE}, or leave it out")
    available = {**dict.fromkeys(UNUSED), **_plain(model), **model.layout.others, "requires_safety_checker": False}
    config = dict(model.layout.scheduler)
    available["scheduler"] = getattr(diffusers, config["_class_name"]).from_config(config)
    names = _signature(model.layout.pipeline)
    with quiet():
        return getattr(diffusers, model.layout.pipeline)(**{k: v for k, v in available.items() if k in names})


def _changes(model: Model) -> list[Plugin]:
    """What is not in the weights of the model's parts: patches and adapters, of its text encoders and codec too."""
    views = [part for part in model.components.values() if isinstance(part, Encoder)]
    return [inner for item in (*model.changes, *(i for view in views for i in view.items)) for inner in item.bare]


def _plain(model: Model) -> dict[str, Any]:
    """Its parts, as their libraries made them."""
    return {name: part.net if isinstance(part, Encoder) else part for name, part in model.components.items()}


def _signature(pipeline: str) -> set[str]:
    import diffusers

    return {*inspect.signature(getattr(diffusers, pipeline).__init__).parameters}
