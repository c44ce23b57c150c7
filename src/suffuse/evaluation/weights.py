"""Public weights that a user brings: read from safetensors, checked name by name against the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from suffuse.core.errors import Damaged, Refused
from suffuse.core.files import sha256

IGNORED = ("num_batches_tracked",)
"""Ends of names that say nothing about what a network computes, and that files may have or lack."""


def read_weights(path: str, what: str, remedy: str) -> tuple[Mapping[str, Tensor], str]:
    """Tensors of a safetensors file by name, and the start of the file's SHA-256.

    Raises:
        Refused: the file is absent. Damaged: it is not safetensors.
    """
    if not Path(path).is_file():
        raise Refused(f"{what}: no file {path}; {remedy}")
    try:
        return load_file(path), sha256(path)[:8]
    except SafetensorError as error:
        raise Damaged(f"{what}: {path} is not a whole safetensors file ({error}); {remedy}") from error


def load_into(net: nn.Module, tensors: Mapping[str, Tensor], path: str, what: str) -> None:
    """Copy tensors into a network that must have exactly these names and shapes.

    Raises:
        Damaged: a tensor is missing, unknown or of another shape; the message names it.
    """
    own = {k: v.shape for k, v in net.state_dict().items() if not k.endswith(IGNORED)}
    given = {k: v.shape for k, v in tensors.items() if not k.endswith(IGNORED)}
    for name in own.keys() ^ given.keys():
        fault = "lacks" if name in own else "has the unknown"
        raise Damaged(f"{what}: {path} {fault} tensor {name}; give the weights that belong to it")
    for name, shape in own.items():
        if given[name] != shape:
            found = f"{tuple(given[name])}, not {tuple(shape)}"
            raise Damaged(f"{what}: {name} in {path} is {found}; give the weights that belong to it")
    net.load_state_dict({k: v for k, v in tensors.items() if k in own}, strict=False)
