"""Checks and small steps that several families share before they call a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.errors import BadInput, Refused

TEXT, POOLED = "text embeddings (B, tokens, width)", "pooled text embeddings (B, width)"
SCALE = "the guidance scale (B,) that it was distilled for"


def dtype_of(net: nn.Module) -> torch.dtype:
    """What the network computes in. diffusers' own `net.dtype` looks at every parameter, in each call."""
    return next(v.dtype for v in net.parameters() if v.is_floating_point())


def need(cond: Cond, entry: str, what: str) -> Tensor:
    """An entry that the network cannot do without."""
    if entry not in cond:
        raise BadInput(f"cond[{entry!r}] is missing: this network needs {what}; encode a prompt, or give the entry")
    return cond[entry]


def told_scale(cond: Cond, takes: bool) -> Tensor | None:
    """The guidance scale where a network has an input for it; one that has none does not go with it."""
    if takes:
        return need(cond, "guidance_scale", SCALE)
    if "guidance_scale" in cond:
        raise Refused(
            "cond['guidance_scale']: this network was not distilled from guidance and has no input for its scale; use "
            "guidance=CFG(...) instead of Embedded"
        )
    return None


def check_size(x: Tensor, multiple: int, square: bool = False) -> None:
    """Refuse states that the network cannot cut into patches."""
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        raise BadInput(
            f"state of {height}x{width}: this network cuts patches; both sides must be multiples of {multiple}"
        )
    if square and height != width:
        raise BadInput(f"state of {height}x{width}: this network takes square states only; use {height}x{height}")


def beside(x: Tensor, cond: Cond, entries: Sequence[str] = ("source",)) -> Tensor:
    """The state with the channels of these entries (B, C, H, W) behind its own, of those that the condition has."""
    parts = [x]
    for entry in entries:
        if entry in cond:
            part = cond[entry]
            if part.shape[0] != x.shape[0] or part.shape[2:] != x.shape[2:]:
                shapes = f"{tuple(part.shape)} and the state {tuple(x.shape)}"
                raise BadInput(f"cond[{entry!r}] has shape {shapes}; they must agree in all but their channels")
            parts.append(part.to(x))
    return torch.cat(parts, 1) if len(parts) > 1 else x


def without_variance(value: Tensor, x: Tensor) -> Tensor:
    """The part of an output that predicts; networks with a learned variance return that behind it."""
    return value[:, : x.shape[1]].to(x.dtype)
