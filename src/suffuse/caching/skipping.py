"""Layers left out: what would enter a residual layer leaves it unchanged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.call import Call
from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.patch import Patch
from ..core.site import Site, Sites
from ..core.value import Coef, Value

RESIDUAL = ("resnet", "transformer")
"""Roles of layers that add something to what enters them."""


def layers_of(net: Sites) -> list[Site]:
    """All layers in the order of execution: units of a UNet; entry, blocks and exit of a transformer."""
    return [
        s for s in net if (s.kind == "unit" and s.role != "feedforward") or (s.kind == "block" and s.stage == "body")
    ]


def skippable(denoiser: Denoiser, x: Value, t: Coef, cond: Cond) -> list[str]:
    """Names of the residual layers that return just what they are given, in shape; found in one evaluation."""
    probe = _Shapes()
    with torch.no_grad():
        denoiser.with_(probe)(x, t, cond)
    return probe.kept


def passed(call: Call) -> Any:
    """What the layer was given, in the form in which it returns; None where it lacks a stream that it returns."""
    if any(stream not in call for stream in call.site.returns):
        return None
    streams = tuple(call[stream] for stream in call.site.returns)
    return streams if len(streams) > 1 or call.kwargs.get("return_dict") is False else streams[0]


@dataclass(frozen=True, eq=False)
class _Shapes(Patch):
    """Notes the residual layers that could be left out."""

    kept: list[str] = field(default_factory=list)

    def sites(self, net: Sites) -> list[Site]:
        return [s for s in layers_of(net) if s.role in RESIDUAL]

    def around(self, call: Call) -> Any:
        out = call()
        if _form(out) == _form(passed(call)):
            self.kept.append(call.site.name)
        return out


def _form(value: Any) -> Any:
    leaves, spec = pytree.tree_flatten(value)
    return spec, [v.shape if isinstance(v, Tensor) else None for v in leaves]
