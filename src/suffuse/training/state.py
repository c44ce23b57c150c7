"""The tensors of a training run, by name: which move, which are copied, which must not change."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadInput

Named = dict[str, Tensor]


def tensors_of(module: nn.Module) -> Named:
    """Parameters and stored buffers by their names in the state_dict, each tensor once."""
    seen: set[int] = set()
    found: Named = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def fingerprint(tensors: Mapping[str, Tensor]) -> int:
    """A cheap hash of the exact bits: the sum of each tensor's words, weighted by its place."""
    total = 0
    for place, tensor in enumerate(tensors.values(), 1):
        words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        bits = tensor.detach().contiguous()
        bits = torch.view_as_real(bits).contiguous() if bits.is_complex() else bits
        total += place * int(bits.view(words[bits.element_size()]).sum(dtype=torch.int64))
    return total


def copy_sharing(module: nn.Module, shared: Mapping[int, Tensor]) -> nn.Module:
    """A deep copy that keeps the tensors in `shared` (by id) as they are: a copied adapter does not copy its base."""
    twin = copy.deepcopy(module, dict(shared))
    for tensor in twin.parameters():
        if id(tensor) not in shared:
            tensor.requires_grad_(False)
    return twin.eval()


def load_into(live: Mapping[str, Tensor], stored: Mapping[str, Tensor], group: str) -> None:
    """Copy stored tensors into the live ones of the same names."""
    for name in sorted(live.keys() ^ stored.keys()):
        where = "holds no" if name in live else "holds an unknown"
        raise BadInput(f"folder: its checkpoint {where} {name!r} in {group}; resume with the same configuration")
    with torch.no_grad():
        for name, tensor in live.items():
            if tensor.shape != stored[name].shape:
                shapes = f"{tuple(stored[name].shape)}, here it is {tuple(tensor.shape)}"
                raise BadInput(f"folder: {name!r} of {group} is stored as {shapes}; resume with the same configuration")
            tensor.copy_(stored[name])


def moments(optimiser: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> tuple[Named, dict[str, Any]]:
    """The state of an optimiser by parameter name: tensors as "name/key", and plain numbers alike."""
    tensors: Named = {}
    numbers: dict[str, Any] = {}
    for name, param in params.items():
        for key, value in optimiser.state.get(param, {}).items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{name}/{key}"] = value
    return tensors, numbers


def load_moments(
    optimiser: torch.optim.Optimizer,
    params: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """The inverse of `moments`."""
    place = {name: i for i, name in enumerate(params)}
    state: dict[int, dict[str, Any]] = {}
    for path, value in {**tensors, **numbers}.items():
        name, _, key = path.rpartition("/")
        if name not in place:
            raise BadInput(f"folder: its checkpoint has moments of {name!r}; resume with the same configuration")
        param = params[name]
        if isinstance(value, Tensor) and value.shape == param.shape:
            value = torch.empty_like(param, dtype=value.dtype).copy_(value)  # the memory format that the kernel expects
        state.setdefault(place[name], {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def matched(own: nn.Module, of: nn.Module) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The tensors of a copy and of its original, pairwise, without those that they share."""
    ours, theirs = tensors_of(own), tensors_of(of)
    pairs = [(tensor.detach(), theirs[name].detach()) for name, tensor in ours.items() if tensor is not theirs[name]]
    return [a for a, _ in pairs], [b for _, b in pairs]
