"""Reading adapter files of any program, and putting what they hold on a model."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..backbones.encoder import Encoder
from ..core.errors import BadInput, Damaged, Refused
from ..core.expression import parse
from ..core.files import read_json
from ..core.patch import Adapter, Patch
from ..core.site import Site, sites_of
from .delta import Delta, Part
from .direct import IA3, FullWeight, Norms
from .lora import GLoRA, LoRA
from .names import DENOISER, NETWORKS, aliases, parsed
from .orthogonal import BOFT, DiagOFT
from .products import LoHa, LoKr

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and PEFT call the file in the folder that they write."""

Layers = dict[str, dict[str, Tensor]]
"""Layer -> tensor -> value."""


def load_adapters(path: str | Path, networks: Any, scale: float | None = None) -> dict[str, list[Adapter]]:
    """Adapters from a safetensors file of suffuse, diffusers or PEFT, kohya or LyCORIS, for the networks of a model.

    Several files add up: `with_adapters(model, load_adapters(a, model, 0.8), load_adapters(b, model, 0.5))`.

    Args:
        path: the file; or the folder in which diffusers or PEFT wrote it.
        networks: a model; a denoiser; or {"denoiser": ..., "text_encoder": Encoder(...), "text_encoder_2": ...}.
        scale: strength; default that of the file, else 1.

    Returns:
        Network -> adapters of the kinds that the file holds, for those networks that it changes.

    Raises:
        BadInput: pickled tensors. Damaged: missing or incomplete. Refused: it was made for another architecture.
    """
    path = _file(Path(path))
    tensors, metadata = read_tensors(path)
    targets = _networks(networks)
    # ours may be of any kind; changes of weights are read like those of other programs
    ours = {name: parse(said, Patch) for name in targets if (said := metadata.get(f"{name}.patch"))}
    other = {name: patch for name, patch in ours.items() if not isinstance(patch, Delta)}
    changes = {key: value for key, value in tensors.items() if key.split(".")[0] not in other}
    return {
        network: [_adapter(path, network, targets[network], kind, metadata, scale) for kind in _kinds(layers)]
        for network, layers in _layers(path, targets, changes).items()
    } | {name: [_made(path, name, targets[name], patch, tensors, metadata, scale)] for name, patch in other.items()}


def _file(path: Path) -> Path:
    """The file of adapters in a folder, by the names that diffusers and PEFT give it."""
    inside = [path / name for name in FILES if (path / name).is_file()]
    if path.is_dir() and not inside:
        raise BadInput(f"path: {path} is a folder without {' or '.join(FILES)}; name a safetensors file")
    return inside[0] if inside else path


def with_adapters(model: Any, *loaded: Mapping[str, Adapter | Sequence[Adapter]]) -> Any:
    """A model with adapters on its denoiser and text encoders; weights are shared, and `model` stays as it is.

    Args:
        model: a Model.
        loaded: network -> adapters, as `load_adapters` returns them; all add up.
    """
    for adapters in loaded:
        for network, found in adapters.items():
            items = [found] if isinstance(found, Adapter) else list(found)
            if network == DENOISER:
                model = model.with_(*items)
                continue
            old = model.conditioner.components[network]
            views = [m for m in model.conditioner.modules() if isinstance(m, Encoder) and old in (m, m.net)]
            old = views[0] if views else old
            view = (old if isinstance(old, Encoder) else Encoder(old)).with_(*items)
            model = replace(model, conditioner=exchanged(model.conditioner, old, view))
    return model


def exchanged(module: Any, old: nn.Module, new: nn.Module) -> Any:
    """A module with another one in the place of `old`; everything else is shared."""
    if module is old:
        return new
    children = {name: child and exchanged(child, old, new) for name, child in module._modules.items()}
    if all(child is module._modules[name] for name, child in children.items()):
        return module
    twin = copy.copy(module)
    twin._modules = children
    return twin


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise Damaged(f"path: {path} is missing; name a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        with path.open("rb") as raw:
            pickled = raw.read(2) in (b"PK", b"\x80\x02", b"\x80\x04")
        if pickled:
            raise BadInput(
                f"path: {path} holds pickled tensors, which can run code; convert it to safetensors"
            ) from error
        raise Damaged(f"{path} is no whole safetensors file ({error}); get it again") from error
    config = path.with_name("adapter_config.json")
    if path.name == FILES[1] and config.is_file():  # PEFT keeps alphas there
        metadata = {"lora_adapter_metadata": json.dumps(read_json(config)), **metadata}
    return tensors, metadata


def _networks(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    if not hasattr(given, "conditioner"):
        return {DENOISER: given}
    encoders = {n: m for n, m in given.conditioner.components.items() if n in NETWORKS}
    return {DENOISER: given.denoiser, **{n: m if isinstance(m, Encoder) else Encoder(m) for n, m in encoders.items()}}


def _sites(network: Any) -> dict[str, Site]:
    return {site.name: site for site in sites_of(network) if site.kind in ("linear", "conv", "norm")}


def _layers(path: Any, targets: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Layers]:
    """Network -> layer -> tensors, by our names."""
    found: dict[str, Layers] = {}
    known: dict[str, tuple[dict[str, Site], dict[str, tuple[str, ...]]]] = {}
    for key, value in tensors.items():
        place = parsed(key)
        if place is None:
            raise Refused(
                f"{path}: {key!r} is no tensor of LoRA, LoHa, LoKr or another adapter of suffuse; use another file"
            )
        network, layer, tensor = place
        if network not in targets:
            raise Refused(
                f"{path} changes {network} too, which was not given; give a model, or networks={{{network!r}: ...}}"
            )
        if network not in known:
            sites = _sites(targets[network])
            known[network] = sites, aliases(sites)
        sites, names = known[network]
        if layer not in names:
            raise Refused(f"{path} was made for another architecture: this {network} has no layer {layer!r}")
        whole = value if value.dtype == torch.bool else value.float()  # half precision is for storage
        widths = [len(sites[name].module.weight) for name in names[layer]]  # type: ignore[union-attr, arg-type]
        for name, part in zip(names[layer], _cut(path, tensor, whole, widths), strict=True):
            found.setdefault(network, {}).setdefault(name, {})[tensor] = part
    # files have no order of their own
    return {
        network: {name: layers[name] for name in known[network][0] if name in layers}
        for network, layers in found.items()
    }


def _cut(path: Any, tensor: str, value: Tensor, widths: Sequence[int]) -> Sequence[Tensor]:
    """The shares of layers that lie one after another in one layer of the file."""
    if len(widths) == 1:
        return [value]
    if tensor in ("lora_down", "lora_mid", "alpha"):
        return [value] * len(widths)
    if tensor in ("lora_up", "diff", "diff_b", "dora_scale", "magnitude") and len(value) == sum(widths):
        return value.split(list(widths))
    raise Refused(f"{path}: {tensor!r} of a layer that holds several cannot be cut into {list(widths)}; only LoRAs can")


def _made(
    path: Any, network: str, target: Any, patch: Patch, tensors: Mapping[str, Tensor], metadata: Mapping[str, str],
    scale: float | None,
) -> Adapter:  # fmt: skip
    """An adapter of any kind, with the parameters of the file."""
    made = patch.on(target)
    left = {key for key in tensors if key.startswith(f"{network}.")}
    for name, part in zip(made.names, made.parts, strict=True):
        start = f"{network}.{name}."
        own = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        try:
            part.load_state_dict(own)
        except RuntimeError as error:
            raise Refused(f"{path} was made for another architecture: {patch} at {name!r} does not fit") from error
        left -= {f"{start}{key}" for key in own}
    if left:
        raise Refused(f"{path} was made for another architecture: this {network} has no place for {min(left)!r}")
    return made.eval().scaled(_strength(metadata, network) if scale is None else scale)


def _kinds(layers: Layers) -> list[tuple[type[Delta], Layers]]:
    """Layers by kind of adapter: files may mix them."""
    found: dict[type[Delta], Layers] = {}
    for name, tensors in layers.items():
        found.setdefault(_kind(tensors), {})[name] = tensors
    return list(found.items())


def _kind(tensors: Mapping[str, Tensor]) -> type[Delta]:
    if "oft_blocks" in tensors:
        return BOFT if tensors["oft_blocks"].ndim == 4 else DiagOFT
    marks = {
        "lora_up": LoRA,
        "hada_w1_b": LoHa,
        "lokr_w1": LoKr,
        "lokr_w1_a": LoKr,
        "b1": GLoRA,
        "diff": FullWeight,
        "w_norm": Norms,
    }
    return next((kind for mark, kind in marks.items() if mark in tensors), IA3)


def _adapter(
    path: Any,
    network: str,
    target: Any,
    kind: tuple[type[Delta], Layers],
    metadata: Mapping[str, str],
    scale: float | None,
) -> Adapter:
    cls, layers = kind
    own = metadata.get(f"{network}.patch")
    patch = parse(own, Delta) if own else _patch(cls, layers)  # type: ignore[type-abstract]
    alphas, sites = _alphas(metadata, network), _sites(target)
    parts: dict[str, nn.Module] = {}
    for name, tensors in layers.items():
        weight: Any = sites[name].module.weight  # type: ignore[union-attr]
        tensors.pop("on_input", None)  # the shape says it
        alpha = tensors.pop("alpha", None)
        if "magnitude" in tensors:
            tensors["dora_scale"] = tensors.pop("magnitude").view(-1, *[1] * (weight.ndim - 1))
        parts[name] = Part(tensors, alphas(name, tensors) if alpha is None else float(alpha))
        _check(path, patch, name, parts[name], weight)  # type: ignore[arg-type]
    return Adapter(patch, parts, _strength(metadata, network) if scale is None else scale)


def _strength(metadata: Mapping[str, str], network: str) -> float:
    return float(metadata.get(f"{network}.scale", 1.0))


def _patch(cls: Any, layers: Layers) -> Delta:
    """The plug-in that files of other programs do not name; ranks are the largest that occur."""
    rank = max(_rank(tensors) for tensors in layers.values())
    if cls in (LoRA, LoHa, LoKr):
        core = any(t in tensors for tensors in layers.values() for t in ("lora_mid", "hada_t1", "lokr_t2"))
        return cls(rank, tucker=core, where="full")
    return cls(where="full") if cls in (FullWeight, Norms, IA3) else cls(rank, where="full")


def _rank(tensors: Mapping[str, Tensor]) -> int:
    if "oft_blocks" in tensors:
        return tensors["oft_blocks"].shape[-1]
    return next(
        (len(tensors[t]) for t in ("lora_down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "b2") if t in tensors), 1
    )


def _alphas(metadata: Mapping[str, str], network: str) -> Callable[[str, Mapping[str, Tensor]], float]:
    """alpha of layers that store none: by the configuration in newer files of diffusers, else the rank."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        config = {}
    own = ("unet.", "transformer.", "") if network == DENOISER else (f"{network}.",)
    prefix = next((p for p in own if f"{p}lora_alpha" in config), None)
    patterns = config.get(f"{prefix}alpha_pattern") or {}

    def alpha(layer: str, tensors: Mapping[str, Tensor]) -> float:
        rank = _rank(tensors)
        if "oft_blocks" in tensors:
            return 0.0
        if prefix is None:
            return float(rank)
        value = next(
            (a for p, a in patterns.items() if re.match(rf"(.*\.)?({p})$", layer)), config[f"{prefix}lora_alpha"]
        )
        return float(value) * (rank**0.5 if config.get(f"{prefix}use_rslora") else 1.0)

    return alpha


def _check(path: Any, patch: Delta, name: str, part: Part, weight: Tensor) -> None:
    ghost = Part({k: torch.empty_like(v, device="meta") for k, v in part.named_parameters()}, float(part.alpha or 0.0))  # type: ignore[arg-type]
    try:
        shape = patch.weight(ghost.eval().requires_grad_(False), torch.empty_like(weight, device="meta")).shape
    except (KeyError, RuntimeError, ValueError) as error:
        raise Refused(f"{path} does not fit {name!r} ({error}); use the architecture that it was made for") from error
    if shape != weight.shape:
        made = f"it changes {tuple(shape)} numbers of {name!r}, which has {tuple(weight.shape)}"
        raise Refused(f"{path} was made for another architecture: {made}")
