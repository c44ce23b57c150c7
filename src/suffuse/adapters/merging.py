"""Adapters into weights and out of them: bake, extract, resize, combine, limit."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..backbones.encoder import Encoder
from ..core.errors import BadInput, Refused
from ..core.patch import Adapter
from ..core.site import sites_of
from .delta import Delta, Part
from .lora import LoRA, LowRank, factor, product
from .reading import exchanged

Net = TypeVar("Net", bound=nn.Module)


@torch.no_grad()
def bake(net: Net, *adapters: Any) -> Net:
    """A copy of a network with adapters merged into its weights, W + sum_i scale_i dW_i(W); the network stays as it is.

    There is no way back by subtraction, which would not be exact: keep the network and the adapters.

    Args:
        net: a denoiser or Encoder.
        adapters: what is merged, each at its `scale`; use `adapter.scaled(0.7)` for others.

    Raises:
        Refused: an adapter that is no weight change, or was made for another architecture.
    """
    for adapter in adapters:
        _delta_of(adapter, "bake")
    twin = copy.deepcopy(net)
    originals, copies = _modules(net), _modules(twin)
    for adapter in adapters:
        _fits(adapter, originals)
    for name in dict.fromkeys(n for a in adapters for n in a.names):
        found = [(a, a.part(name)) for a in adapters if name in a.names and a.scale != 0.0]
        merged: dict[str, Tensor] = {}
        for adapter, part in found:
            for kind, delta in _delta_of(adapter, "bake").deltas(part, originals[name], adapter.scale).items():
                merged[kind] = merged[kind] + delta if kind in merged else delta
        for kind, delta in merged.items():
            old, new = getattr(originals[name], kind), getattr(copies[name], kind)
            new.copy_(old.double() + delta.double())
    return twin


def baked(model: Any) -> Any:
    """A copy of a model with the adapters of its network and of its text encoders merged into their weights.

    It can be saved and given to diffusers; `Model.baked` is this.

    Args:
        model: a Model.

    Raises:
        Refused: a patch or adapter that is no change of weights.
    """
    conditioner = model.conditioner
    for view in [module for module in conditioner.modules() if isinstance(module, Encoder)]:
        conditioner = exchanged(conditioner, view, bake(Encoder(view.net), *view.items).net)
    return replace(model, denoiser=bake(model.network, *model.changes), conditioner=conditioner, named=())


@torch.no_grad()
def extract(
    base: nn.Module, tuned: nn.Module, rank: int = 8, energy: float = 1.0, patch: LoRA | None = None
) -> Adapter:
    """The LoRA nearest to the difference of two networks: its largest singular values, layer by layer.

    Args:
        base, tuned: networks of one architecture.
        rank: largest rank of a layer.
        energy: share of the squared singular values to keep, 0 to 1; fewer ranks where fewer suffice.
        patch: which layers; default every linear and convolution layer.

    Raises:
        Refused: networks of different architectures.
    """
    patch = patch or LoRA(rank, where="full")
    others, parts = _modules(tuned), {}
    for site in patch.sites(sites_of(base)):
        weight: Any = site.module.weight  # type: ignore[union-attr]
        other: Any = getattr(others.get(site.name), "weight", None)
        if other is None or other.shape != weight.shape:
            raise Refused(f"tuned: {site.name} is not the layer of `base`; give two networks of one architecture")
        parts[site.name] = _nearest(other.double() - weight.double(), rank, energy)
    return Adapter(patch, parts)


@torch.no_grad()
def resize(adapter: Adapter, rank: int, energy: float = 1.0) -> Adapter:
    """The nearest LoRA of a smaller rank.

    Args:
        adapter: a LoRA.
        rank: largest rank of a layer.
        energy: share of the squared singular values to keep, 0 to 1.

    Raises:
        Refused: another kind of adapter; `extract` it from `bake(net, adapter)`.
    """
    _plain_lora(adapter, "resize")
    parts = {n: _nearest(_matrix(part), rank, energy) for n, part in zip(adapter.names, adapter.parts, strict=True)}
    return Adapter(LoRA(rank, where=_delta_of(adapter, "resize").where), parts, adapter.scale)


@torch.no_grad()
def combine(*adapters: Adapter) -> Adapter:
    """One LoRA equal to the sum of several, each at its `scale`; the ranks add up, and `resize` makes them small again.

    Raises:
        Refused: another kind of adapter among them; merge those with `bake`.
    """
    if not adapters:
        raise BadInput("adapters: none were given; give at least one LoRA")
    parts: dict[str, Part] = {}
    for adapter in adapters:
        _plain_lora(adapter, "combine")
    for name in dict.fromkeys(n for a in adapters for n in a.names):
        pairs = [(a.scale, a.part(name)) for a in adapters if name in a.names]
        ups = [scale * factor(part) * part["lora_up"] for scale, part in pairs]  # type: ignore[arg-type, index]
        downs = [_through_core(part) for _, part in pairs]  # type: ignore[arg-type]
        rank = sum(len(d) for d in downs)
        parts[name] = Part({"lora_down": torch.cat(downs), "lora_up": torch.cat(ups, 1)}, rank)
    return Adapter(
        LoRA(max(len(p["lora_down"]) for p in parts.values()), where=_delta_of(adapters[0], "combine").where), parts
    )


@torch.no_grad()
def limit_norm(adapter: Adapter, net: Any, largest: float) -> int:
    """Scale down, in place, every dW whose Frobenius norm exceeds `largest`; call it between training steps.

    Every factor of dW is scaled alike. Rotations and magnitudes (DoRA) have no such factors and stay.

    Returns:
        How many layers were scaled down.
    """
    delta, modules, count = _delta_of(adapter, "limit_norm"), _modules(net), 0
    _fits(adapter, modules)
    for name, part in zip(adapter.names, adapter.parts, strict=True):
        found = [part[n] for n in delta.factors if n in part]  # type: ignore[index, operator]
        size = torch.linalg.vector_norm(delta.weight(part, modules[name].weight))  # type: ignore[arg-type]
        if not found or size <= largest:
            continue
        degree = 2 if "a1" in part else len(found)  # type: ignore[operator]
        for tensor in found:
            tensor.mul_((largest / size) ** (1.0 / degree))
        count += 1
    return count


def _nearest(matrix: Tensor, rank: int, energy: float) -> Part:
    """The LoRA part of a weight change: its largest singular values, split evenly between both factors."""
    shape = matrix.shape
    u, s, v = torch.linalg.svd(matrix.double().flatten(1), full_matrices=False)
    share = (s.square().cumsum(0) / s.square().sum().clamp(min=1e-300)).tolist()
    enough = (
        next((k + 1 for k, e in enumerate(share) if e >= energy - 1e-12), len(share)) if energy < 1.0 else len(share)
    )
    r = max(1, min(rank, enough))
    root, point = s[:r].sqrt(), [1] * (len(shape) - 2)
    up, down = (u[:, :r] * root).float(), (root[:, None] * v[:r]).float()
    return Part({"lora_down": down.reshape(r, *shape[1:]), "lora_up": up.reshape(-1, r, *point)}, r)


def _matrix(part: Any) -> Tensor:
    """dW of a LoRA part in the shape of the layer's weight."""
    down, up = part["lora_down"], part["lora_up"]
    mid = part["lora_mid"] if "lora_mid" in part else None
    kernel = (down if mid is None else mid).shape[2:]
    return (product(up, down, mid) * factor(part)).reshape(len(up), down.shape[1], *kernel)


def _through_core(part: Part) -> Tensor:
    """The down factor with a Tucker core multiplied into it."""
    if "lora_mid" not in part:
        return part["lora_down"]
    return torch.einsum("rs...,si->ri...", part["lora_mid"], part["lora_down"].flatten(1))


def _modules(net: nn.Module) -> dict[str, nn.Module]:
    return {s.name: s.module for s in sites_of(net) if s.module is not None}


def _fits(adapter: Adapter, modules: dict[str, nn.Module]) -> None:
    missing = [n for n in adapter.names if n not in modules]
    if missing:
        raise Refused(
            f"{adapter.patch}: this network lacks {missing[0]!r}; use it on the architecture that it was made for"
        )


def _delta_of(adapter: Any, verb: str) -> Delta:
    patch = adapter.patch if isinstance(adapter, Adapter) else adapter
    if not isinstance(patch, Delta):
        raise Refused(f"{verb}: {patch} is not a change of weights; use it as a view, `net.with_(adapter)`")
    return patch


def _plain_lora(adapter: Adapter, verb: str) -> None:
    lora = isinstance(adapter.patch, LowRank) and not any("dora_scale" in part for part in adapter.parts)  # type: ignore[operator]
    if not lora:
        raise Refused(f"{verb}: {adapter.patch} is no plain LoRA; use extract(net, bake(net, adapter), rank)")
