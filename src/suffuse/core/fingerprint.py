"""A short name for exactly these weights."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(*modules: nn.Module) -> str:
    """16 hexadecimal digits of BLAKE2b over configurations, names, shapes, types and bytes of some modules.

    A second or so for each gigabyte.
    """
    digest = hashlib.blake2b(digest_size=8)
    for module in modules:
        digest.update(json.dumps(_configuration(module), sort_keys=True, default=str).encode())
        for name, tensor in sorted(_tensors(module).items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            data: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(data)
    return digest.hexdigest()


def version(*modules: nn.Module) -> tuple[tuple[int, int], ...]:
    """Changes when a weight is replaced or written to; a microsecond for each tensor."""
    waiting, found = list(modules), []
    while waiting:  # `parameters()` takes several times as long, and every picture asks
        module = waiting.pop()
        waiting += (m for m in module._modules.values() if m is not None)
        found += [*module._parameters.values(), *module._buffers.values()]
    return tuple((t.data_ptr(), t._version) for t in found if t is not None)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _configuration(module: nn.Module) -> dict[str, Any]:
    """What a diffusers or transformers module was built from, less what only says who wrote the file."""
    config: Any = getattr(module, "config", None)
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
    return {
        k: v
        for k, v in values.items()
        if not k.startswith("_") and k not in ("transformers_version", "dtype", "torch_dtype", "architectures")
    }
