"""A parametrised change of one layer's weights: what every adapter of LyCORIS is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.call import Call
from ..core.errors import BadInput
from ..core.patch import Patch
from ..core.site import Site, Sites
from .presets import Where, chosen


class Part(nn.Module):
    """Tensors of one site by the names that LyCORIS files give them.

    Args:
        tensors: name -> tensor, learned.
        alpha: numerator of the factor alpha / rank, or None where there is no such factor.
    """

    def __init__(self, tensors: Mapping[str, Tensor], alpha: float | None = None):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))
        self.register_buffer("alpha", None if alpha is None else torch.tensor(float(alpha)))

    def __getitem__(self, name: str) -> Tensor:
        return self._parameters[name]  # type: ignore[return-value]

    def __contains__(self, name: str) -> bool:
        return name in self._parameters


@dataclass(frozen=True)
class Delta(Patch):
    """y = F(x; W + scale dW): adds F(dropout(x); scale dW) to what the layer returns, so that several adapters add up.

    Args:
        where: preset of `adapters.presets` or fragments of layer names.
        dropout: share of the layer's inputs that the change does not see in training.
    """

    where: Where = field(default="attn-mlp", kw_only=True)
    dropout: float = field(default=0.0, kw_only=True)

    kinds: ClassVar[tuple[str, ...]] = ("linear", "conv")
    factors: ClassVar[tuple[str, ...]] = ()
    """Names of tensors in which dW is homogeneous: all times c is dW times c to the power of their number."""

    def sites(self, net: Sites) -> Sequence[Site]:
        return chosen(net, self.where, self.kinds)

    @abstractmethod
    def make(self, site: Site) -> Part | None:
        """Parameters for one site, such that dW is exactly 0."""

    @abstractmethod
    def weight(self, part: Part, weight: Tensor) -> Tensor:
        """dW for a layer with this weight."""

    def deltas(self, part: Part, module: nn.Module, scale: float = 1.0) -> dict[str, Tensor]:
        """Parameter of the layer -> what is added to it at this strength."""
        return {"weight": scale * self.weight(part, module.weight)}  # type: ignore[arg-type]

    def around(self, call: Call) -> Any:
        y = call()
        if call.scale == 0.0:
            return y
        x = F.dropout(call["image"], self.dropout, call.part.training)
        return y + self.change(call.part, call.site.module, x, call.scale).to(y.dtype)

    def change(self, part: Part, module: Any, x: Tensor, scale: float) -> Tensor:
        """What is added to the layer's output for the input x."""
        deltas = {name: d.to(x.dtype) for name, d in self.deltas(part, module, scale).items()}
        return apply(module, x, deltas["weight"], deltas.get("bias"))

    def layer(self, site: Site) -> Tensor:
        """The weight of a site."""
        return site.module.weight.detach()  # type: ignore[union-attr, operator]


@dataclass(frozen=True)
class Decomposable(Delta):
    """A Delta whose sum with the weight may be split into magnitude and direction (DoRA).

    W' = m (W + scale dW) / |W + scale dW|, norms over all but the first axis, taken as constants in the gradient.

    Args:
        decompose: learn the magnitude m too.

    Reference: Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, 2402.09353.
    """

    decompose: bool = field(default=False, kw_only=True)

    def made(self, site: Site, tensors: dict[str, Tensor], alpha: float | None = None) -> Part:
        """A part of these tensors, with the magnitude of the layer's weight where it is learned."""
        if self.decompose:
            weight = self.layer(site).float()
            tensors["dora_scale"] = norm(weight, torch.empty(len(weight), *[1] * (weight.ndim - 1)))
        return Part(tensors, alpha)

    def deltas(self, part: Part, module: nn.Module, scale: float = 1.0) -> dict[str, Tensor]:
        weight: Any = module.weight
        delta = scale * self.weight(part, weight)
        if "dora_scale" not in part:
            return {"weight": delta}
        whole = weight.float() + delta.float()
        m = part["dora_scale"]
        # at first m equals the norm, the ratio is exactly 1, and so the difference exactly 0
        return {"weight": m / norm(whole.detach(), m) * whole - weight.float()}


def norm(weight: Tensor, like: Tensor) -> Tensor:
    """Norm of a weight over the axes in which `like` has one entry; files differ in which these are."""
    axes = [k for k in range(weight.ndim) if like.shape[k] == 1]
    return torch.linalg.vector_norm(weight, dim=axes, keepdim=True).clamp(min=1e-12)


def apply(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The layer's own operation with another weight and bias."""
    if isinstance(module, nn.Linear):
        return F.linear(x, weight, bias)
    return module._conv_forward(x, weight, bias)  # knows stride, padding and its mode


def uniform(*shape: int) -> Tensor:
    """Kaiming-uniform numbers for a first factor, as in LoRA: bound 1 / sqrt(entries of a row)."""
    bound = 1.0 / max(torch.Size(shape[1:]).numel(), 1) ** 0.5
    return torch.empty(shape).uniform_(-bound, bound)


def positive(name: str, value: int) -> int:
    """A rank, factor or block size."""
    if value < 1:
        raise BadInput(f"{name}={value}: must be a whole number of at least 1")
    return value
