"""Changes without factors: all weights, the weights of norms, one number a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import Refused
from ..core.registry import method
from ..core.site import Site, Sites
from .delta import Decomposable, Delta, Part
from .presets import Where


@method(paper="lycoris", tags=("full",))
@dataclass(frozen=True)
class FullWeight(Decomposable):
    """Learns a change of every entry: dW and, where there is a bias, db. Full fine-tuning in the form of an adapter.

    Args:
        where, dropout, decompose: as in LoRA.
    """

    factors = ("diff",)

    def make(self, site: Site) -> Part:
        tensors = {"diff": torch.zeros_like(self.layer(site), dtype=torch.float32)}
        if (bias := getattr(site.module, "bias", None)) is not None:
            tensors["diff_b"] = torch.zeros_like(bias, dtype=torch.float32)
        return self.made(site, tensors)

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        return part["diff"]

    def deltas(self, part: Part, module: nn.Module, scale: float = 1.0) -> dict[str, Tensor]:
        found = super().deltas(part, module, scale)
        return {**found, "bias": scale * part["diff_b"]} if "diff_b" in part else found


@method(paper="lycoris")
@dataclass(frozen=True)
class Norms(Delta):
    """Learns changes of the scales and shifts of layer norms, group norms, batch norms and RMS norms.

    y = norm(x) (w + dw) + b + db; norms without scales are left out.

    Args:
        where: preset or fragments of layer names.
    """

    where: Where = field(default="full", kw_only=True)

    kinds = ("norm",)
    factors = ("w_norm",)

    def sites(self, net: Sites) -> Sequence[Site]:
        found = [s for s in super().sites(net) if getattr(s.module, "weight", None) is not None]
        if not found:
            raise Refused(f"{self}: the norms of this network have no scales of their own; use LoRA or IA3")
        return found

    def make(self, site: Site) -> Part:
        bias = getattr(site.module, "bias", None)
        tensors = {"w_norm": torch.zeros_like(self.layer(site), dtype=torch.float32)}
        return Part(tensors if bias is None else {**tensors, "b_norm": torch.zeros_like(bias, dtype=torch.float32)})

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        return part["w_norm"]

    def deltas(self, part: Part, module: nn.Module, scale: float = 1.0) -> dict[str, Tensor]:
        found = {"weight": scale * part["w_norm"]}
        return {**found, "bias": scale * part["b_norm"]} if "b_norm" in part else found

    def around(self, call: Any) -> Any:
        y = call()
        if call.scale == 0.0:
            return y
        module, x = call.site.module, call["image"]
        by_channel = isinstance(module, (nn.GroupNorm, nn.modules.batchnorm._BatchNorm))
        shape = (-1, *[1] * (x.ndim - 2)) if by_channel else (-1,)
        deltas = {k: d.view(shape).to(y.dtype) for k, d in self.deltas(call.part, module, call.scale).items()}
        change = normalised(module, x) * deltas["weight"]
        return y + (change + deltas["bias"] if "bias" in deltas else change)


def normalised(module: Any, x: Tensor) -> Tensor:
    """What a norm scales and shifts."""
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, None, None, module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, None, None, module.eps)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        known = (None, None) if module.training else (module.running_mean, module.running_var)
        return F.batch_norm(x, *known, None, None, module.training, 0.0, module.eps)
    return F.rms_norm(x, x.shape[-1:], None, module.eps)


@method(paper="lycoris", tags=("ia3",))
@dataclass(frozen=True)
class IA3(Delta):
    """Learns one factor a channel: dW = l W for outputs of keys and values, dW = W l for inputs of feed-forwards' ends.

    Args:
        where: preset or fragments of layer names.
        on_input: fragments of the names of layers whose inputs are scaled instead of their outputs.
        dropout: see Delta.

    Reference: Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper, 2205.05638.
    """

    where: Where = field(default=("to_k", "to_v", "k_proj", "v_proj", "ff.net.2", "fc2"), kw_only=True)
    on_input: tuple[str, ...] = ("ff.net.2", "fc2")

    factors = ("weight",)

    def make(self, site: Site) -> Part:
        weight = self.layer(site)
        inside = any(fragment in site.name for fragment in self.on_input)
        shape = (1, weight.shape[1]) if inside else (weight.shape[0], 1)
        return Part({"weight": torch.zeros(*shape, *[1] * (weight.ndim - 2))})

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        return part["weight"] * weight.to(part["weight"].dtype)
