"""Writing adapter files: our own, and those of diffusers and PEFT, kohya and LyCORIS, which other programs read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..core.errors import BadInput, Refused
from ..core.expression import unparse
from ..core.files import atomic_write
from ..core.patch import Adapter
from .delta import Delta
from .direct import IA3
from .lora import LoRA
from .names import DENOISER, NETWORKS, TENSORS, flat, with_text_model

Adapters = Adapter | Mapping[str, Adapter]
"""The adapter of a denoiser, or adapters by network: "denoiser", "text_encoder", "text_encoder_2"."""


def save_adapters(path: str | Path, adapters: Adapters) -> Path:
    """Write adapters of any kind to a safetensors file of our own: keys are network, site and tensor, metadata the
    expressions.

    Args:
        path: file to create or replace.
        adapters: of a denoiser, or by network.

    Raises:
        BadInput: a patch that no expression says.
    """
    tensors: dict[str, Tensor] = {}
    metadata = {"format": "suffuse"}
    for network, adapter in _named(adapters).items():
        metadata |= {f"{network}.patch": unparse(adapter.patch), f"{network}.scale": repr(adapter.scale)}
        for name, part in _parts(adapter):
            tensors |= {f"{network}.{name}.{tensor}": value for tensor, value in part.items()}
    return atomic_write(path, save(tensors, metadata))


def save_as_diffusers(path: str | Path, adapters: Adapters) -> Path:
    """Write LoRAs as `load_lora_weights` of diffusers reads them (PEFT names); alpha and scale go into the numbers.

    Args:
        path: file to create or replace.
        adapters: of a denoiser, or by network.

    Raises:
        Refused: another kind of adapter, or Tucker form.
    """
    tensors: dict[str, Tensor] = {}
    for network, adapter in _named(adapters).items():
        unet = any(name.startswith(("down_blocks", "mid_block", "up_blocks")) for name in adapter.names)
        prefix = network if network != DENOISER else "unet" if unet else "transformer"
        for name, part in _deltas(adapter):
            if not {"lora_down", "lora_up", "alpha"} >= part.keys():
                what = f"{adapter.patch}: LoRA files of diffusers hold plain LoRAs only"
                raise Refused(f"{what}; use save_as_kohya, or extract a LoRA from bake(net, adapter)")
            layer = f"{prefix}.{name if network == DENOISER else with_text_model(name)}"
            factor = adapter.scale * part["alpha"] / len(part["lora_down"])
            tensors |= {f"{layer}.lora_A.weight": part["lora_down"], f"{layer}.lora_B.weight": factor * part["lora_up"]}
    return atomic_write(path, save(tensors, {"format": "pt"}))


def save_as_kohya(path: str | Path, adapters: Adapters) -> Path:
    """Write adapters with the names of kohya's scripts and LyCORIS, which most programs read; scales are not stored.

    Args:
        path: file to create or replace.
        adapters: of a denoiser, or by network.
    """
    named = _named(adapters)
    tensors: dict[str, Tensor] = {}
    first = "lora_te1" if "text_encoder_2" in named else "lora_te"
    prefixes = {DENOISER: "lora_unet", "text_encoder": first, "text_encoder_2": "lora_te2"}
    for network, adapter in named.items():
        for name, part in _deltas(adapter):
            layer = flat(name if network == DENOISER else with_text_model(name))
            tensors |= {f"{prefixes[network]}_{layer}.{TENSORS.get(t, t)}": value for t, value in part.items()}
    plain = all(isinstance(adapter.patch, LoRA) for adapter in named.values())
    module = "networks.lora" if plain else "lycoris.kohya"
    return atomic_write(path, save(tensors, {"format": "pt", "ss_network_module": module}))


def _named(adapters: Adapters) -> dict[str, Adapter]:
    named = {DENOISER: adapters} if isinstance(adapters, Adapter) else dict(adapters)
    if not named or not named.keys() <= set(NETWORKS):
        raise BadInput(f"adapters={list(named)}: give one, or some by the names {', '.join(NETWORKS)}")
    return named


def _deltas(adapter: Adapter) -> list[tuple[str, dict[str, Tensor]]]:
    if not isinstance(adapter.patch, Delta):
        what = f"{adapter.patch}: files of other programs hold changes of weights"
        raise Refused(f"{what}; give an adapter such as LoRA(8).on(denoiser), or use save_adapters")
    return _parts(adapter)


def _parts(adapter: Adapter) -> list[tuple[str, dict[str, Tensor]]]:
    found = []
    for name, part in zip(adapter.names, adapter.parts, strict=True):
        tensors = {k: v.detach().cpu().contiguous() for k, v in part.state_dict().items()}
        if isinstance(adapter.patch, IA3):
            tensors["on_input"] = torch.tensor(len(tensors["weight"]) == 1)
        found.append((name, tensors))
    return found
