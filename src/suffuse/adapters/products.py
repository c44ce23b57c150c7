"""Products that reach a high rank with few numbers: Hadamard (LoHa) and Kronecker (LoKr)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.registry import method
from ..core.site import Site
from .delta import Decomposable, Part, positive, uniform


@method(paper="lycoris", tags=("lora",))
@dataclass(frozen=True)
class LoHa(Decomposable):
    """Adds the entry-wise product of two thin products to weights: dW = alpha / r (B1 A1) * (B2 A2), of rank up to r^2.

    The backward pass computes both products again instead of keeping them.

    Args:
        rank: r; less where a layer is smaller.
        alpha: strength in units of 1 / r; default r.
        tucker: on convolutions a k x k core on r channels in each factor.
        where, dropout, decompose: as in LoRA.

    Reference: Hyeon-Woo et al., FedPara, 2108.06098; Yeh et al., 2309.14859.
    """

    rank: int = 8
    alpha: float | None = None
    tucker: bool = False

    factors = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")

    def __post_init__(self) -> None:
        positive("rank", self.rank)

    def make(self, site: Site) -> Part:
        weight = self.layer(site)
        out, inner, *kernel = weight.shape
        rank, tensors = min(self.rank, out, weight[0].numel()), {}
        for k, spread in (("1", 0.1), ("2", 0.0)):
            if self.tucker and any(size > 1 for size in kernel):
                tensors[f"hada_t{k}"] = 0.1 * torch.randn(rank, rank, *kernel)
                tensors[f"hada_w{k}_a"] = spread * torch.randn(rank, out)
                tensors[f"hada_w{k}_b"] = torch.randn(rank, inner)
            else:
                tensors[f"hada_w{k}_a"] = spread * torch.randn(out, rank)
                tensors[f"hada_w{k}_b"] = torch.randn(rank, weight[0].numel())
        return self.made(site, tensors, rank if self.alpha is None else self.alpha)

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        names = [f"hada_{n}" for n in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2") if f"hada_{n}" in part]
        whole = checkpoint(_hadamard, *(part[n] for n in names), use_reentrant=False, preserve_rng_state=False)
        return whole.reshape(weight.shape) * (part.alpha / len(part["hada_w1_b"]))  # type: ignore[operator]


def _hadamard(
    w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor, t1: Tensor | None = None, t2: Tensor | None = None
) -> Tensor:
    if t1 is None or t2 is None:
        return (w1_a @ w1_b) * (w2_a @ w2_b)
    return tucker(t1, w1_a, w1_b) * tucker(t2, w2_a, w2_b)


def tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(out, in, kernel) from a core (r, s, kernel) and a (r, out), b (s, in)."""
    return torch.einsum("rs...,ro,si->oi...", core, a, b)


@method(paper="lycoris", tags=("lora",))
@dataclass(frozen=True)
class LoKr(Decomposable):
    """Adds a Kronecker product to weights: dW = alpha / r  C (x) (B A), or C (x) D with a full second block.

    Output and input widths are split into two factors each; C takes the smaller ones, B A the larger. Where r reaches
    half of the larger block, that block is learned in full and the factor alpha / r is 1.

    Args:
        rank: r; a huge one, such as 100000, makes all second blocks full.
        alpha: strength in units of 1 / r; default r.
        factor: size of C wished for; -1 splits as evenly as possible.
        decompose_both: C is a product of two thin matrices too, where r is small enough.
        tucker: on convolutions a k x k core on r channels in the second block.
        where, dropout, decompose: as in LoRA.

    Reference: Edalati et al., KronA, 2212.10650; Yeh et al., 2309.14859.
    """

    rank: int = 8
    alpha: float | None = None
    factor: int = -1
    decompose_both: bool = False
    tucker: bool = False

    factors = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")

    def __post_init__(self) -> None:
        positive("rank", self.rank)

    def make(self, site: Site) -> Part:
        out, inner, *kernel = self.layer(site).shape
        (out_c, out_d), (in_c, in_d), rank = split(out, self.factor), split(inner, self.factor), self.rank
        tensors: dict[str, Tensor] = {}
        if self.decompose_both and rank < max(out_c, in_c) / 2:
            tensors |= {"lokr_w1_a": uniform(out_c, rank), "lokr_w1_b": uniform(rank, in_c)}
        else:
            tensors["lokr_w1"] = uniform(out_c, in_c)
        if rank >= max(out_d, in_d) / 2:
            tensors["lokr_w2"] = torch.zeros(out_d, in_d, *kernel)
        elif self.tucker and any(k > 1 for k in kernel):
            tensors["lokr_t2"] = uniform(rank, rank, *kernel)
            tensors |= {"lokr_w2_a": uniform(rank, out_d), "lokr_w2_b": torch.zeros(rank, in_d)}
        else:
            tensors |= {
                "lokr_w2_a": uniform(out_d, rank),
                "lokr_w2_b": torch.zeros(rank, in_d * torch.Size(kernel).numel()),
            }
        full = "lokr_w1" in tensors and "lokr_w2" in tensors
        return self.made(site, tensors, 1.0 if full else rank if self.alpha is None else self.alpha)

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        c = part["lokr_w1"] if "lokr_w1" in part else part["lokr_w1_a"] @ part["lokr_w1_b"]
        if "lokr_w2" in part:
            d = part["lokr_w2"]
        elif "lokr_t2" in part:
            d = tucker(part["lokr_t2"], part["lokr_w2_a"], part["lokr_w2_b"])
        else:
            d = part["lokr_w2_a"] @ part["lokr_w2_b"].flatten(1)
        d = d.reshape(len(d), weight.shape[1] // c.shape[1], *weight.shape[2:]).contiguous()
        scale = part.alpha / rank if (rank := _rank(part)) else 1.0  # type: ignore[operator]
        return torch.kron(c.reshape(*c.shape, *[1] * (d.ndim - 2)), d) * scale


def _rank(part: Part) -> int | None:
    if "lokr_w1_b" in part:
        return len(part["lokr_w1_b"])
    return len(part["lokr_w2_b"]) if "lokr_w2_b" in part else None


def split(width: int, factor: int = -1) -> tuple[int, int]:
    """Two factors of a width, the smaller first: `factor` itself where it divides, else as even as `factor` allows."""
    if factor > 0 and width % factor == 0:
        return min(factor, width // factor), max(factor, width // factor)
    limit = width if factor == -1 else factor
    small = max(m for m in range(1, int(width**0.5) + 1) if width % m == 0 and m <= limit)
    return small, width // small
