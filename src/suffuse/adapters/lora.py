"""Products of two thin matrices: LoRA (on convolutions LoCon), DyLoRA, GLoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.registry import method
from ..core.site import Site
from .delta import Decomposable, Part, apply, positive, uniform


@dataclass(frozen=True)
class LowRank(Decomposable):
    """dW = alpha / r  B A, kept as `lora_up` B and `lora_down` A, with `lora_mid` between them in Tucker form.

    Args:
        rank: r; less where a layer is smaller.
        alpha: strength in units of 1 / r; default r.
    """

    rank: int = 8
    alpha: float | None = None

    factors = ("lora_up", "lora_down", "lora_mid")

    def __post_init__(self) -> None:
        positive("rank", self.rank)

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        up, down = part["lora_up"], part["lora_down"]
        return (product(up, down, part["lora_mid"] if "lora_mid" in part else None) * factor(part)).reshape(
            weight.shape
        )


@method(paper="lycoris", tags=("lora", "locon"))
@dataclass(frozen=True)
class LoRA(LowRank):
    """Adds a product of two thin matrices to weights: dW = alpha / r  B A, B = 0 at first.

    On k x k convolutions A is a k x k convolution to r channels and B a 1 x 1 convolution (LoCon), or with `tucker` A
    and B are 1 x 1 and a k x k core on r channels lies between them.

    Args:
        rank: r; less where a layer is smaller.
        alpha: strength in units of 1 / r; default r.
        tucker: Tucker form on convolutions.
        where, dropout, decompose: see Delta and DoRA.

    Reference: Hu et al., LoRA, 2106.09685; Yeh et al., Navigating Text-To-Image Customization, 2309.14859.
    """

    tucker: bool = False

    def make(self, site: Site) -> Part:
        weight, conv = self.layer(site), site.kind == "conv"
        out, inner, *kernel = weight.shape
        rank = min(self.rank, out, weight[0].numel())
        point = [1] * len(kernel)
        if self.tucker and conv and any(k > 1 for k in kernel):
            rank = min(rank, inner)
            tensors = {"lora_down": uniform(rank, inner, *point), "lora_mid": uniform(rank, rank, *kernel)}
        else:
            tensors = {"lora_down": uniform(rank, inner, *kernel)}
        return self.made(site, {**tensors, "lora_up": torch.zeros(out, rank, *point)}, self._alpha(rank))

    def _alpha(self, rank: int) -> float:
        return rank if self.alpha is None else self.alpha

    def change(self, part: Part, module: Any, x: Tensor, scale: float) -> Tensor:
        if "dora_scale" in part or (isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1):
            return super().change(part, module, x, scale)
        down, up = part["lora_down"].to(x.dtype), part["lora_up"].to(x.dtype)
        if isinstance(module, nn.Linear):
            hidden = F.linear(x, down.flatten(1))
            return F.linear(hidden, up.flatten(1)) * (scale * factor(part)).to(x.dtype)
        if "lora_mid" in part:
            hidden = apply(module, torch.einsum("bi...,ri->br...", x, down.flatten(1)), part["lora_mid"].to(x.dtype))
        else:
            hidden = apply(module, x, down)
        return torch.einsum("br...,or->bo...", hidden, up.flatten(1)) * (scale * factor(part)).to(x.dtype)


@method(paper="lycoris", tags=("lora",))
@dataclass(frozen=True)
class DyLoRA(LowRank):
    """LoRA that works at every rank: a training step uses the first b rows, b at random, and trains the last block.

    dW = alpha / r sqrt(r / b)  B[:, :b] A[:b]. After training, or cut to any rank, an ordinary LoRA.

    Args:
        rank: r, the largest.
        block: ranks trained together.
        alpha, where, dropout, decompose: as in LoRA.

    Reference: Valipour et al., DyLoRA, 2210.07558; factor as in LyCORIS.
    """

    block: int = 1

    def make(self, site: Site) -> Part:
        weight = self.layer(site)
        out, inner, *kernel = weight.shape
        rank = min(self.rank, out, weight[0].numel())
        tensors = {"lora_down": uniform(rank, inner, *kernel), "lora_up": torch.zeros(out, rank, *[1] * len(kernel))}
        return self.made(site, tensors, rank if self.alpha is None else self.alpha)

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        if not part.training:
            return super().weight(part, weight)
        up, down = part["lora_up"], part["lora_down"]
        rank, size = len(down), positive("block", self.block)
        last = int(torch.randint((rank + size - 1) // size, ()))
        start, stop = last * size, min((last + 1) * size, rank)
        up = torch.cat([up[:, :start].detach(), up[:, start:stop]], 1)
        down = torch.cat([down[:start].detach(), down[start:stop]])
        return (product(up, down) * (factor(part) * (rank / stop) ** 0.5)).reshape(weight.shape)


@method(paper="lycoris", tags=("lora",))
@dataclass(frozen=True)
class GLoRA(Decomposable):
    """Adds a thin product to weights, and one that is applied after the weights: dW = alpha / r (W A1 A2 + B1 B2).

    Args:
        rank: r; less where a layer is smaller.
        alpha: strength in units of 1 / r; default r.
        where, dropout, decompose: as in LoRA.

    Reference: Chavan et al., One-for-All: Generalized LoRA, 2306.07967.
    """

    rank: int = 8
    alpha: float | None = None

    factors = ("a1", "a2", "b1", "b2")

    def __post_init__(self) -> None:
        positive("rank", self.rank)

    def make(self, site: Site) -> Part:
        out, inner, *kernel = self.layer(site).shape
        rank, point = min(self.rank, out, inner), [1] * len(kernel)
        tensors = {
            "a1": uniform(inner, rank, *point),
            "a2": torch.zeros(rank, inner, *point),
            "b1": uniform(out, rank, *point),
            "b2": torch.zeros(rank, inner, *kernel),
        }
        return self.made(site, tensors, rank if self.alpha is None else self.alpha)

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        a, b = part["a1"].flatten(1) @ part["a2"].flatten(1), product(part["b1"], part["b2"]).reshape(weight.shape)
        scale = part.alpha / len(part["a2"])  # type: ignore[operator]
        return (torch.einsum("oi...,ij->oj...", weight.to(a.dtype), a) + b) * scale


def product(up: Tensor, down: Tensor, mid: Tensor | None = None) -> Tensor:
    """(out, in * kernel) matrix of a pair of thin ones, or of three tensors in Tucker form."""
    if mid is None:
        return up.flatten(1) @ down.flatten(1)
    return torch.einsum("or,rs...,si->oi...", up.flatten(1), mid, down.flatten(1)).flatten(1)


def factor(part: Part) -> Tensor:
    """alpha / r of a LoRA part."""
    return part.alpha / len(part["lora_down"])  # type: ignore[operator, return-value]
