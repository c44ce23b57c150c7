"""Perturbed self-attention as the weaker network: PAG takes the attention away, SEG smooths it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.call import Call
from ..core.cond import Cond
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.predict import Predict
from ..core.registry import method
from ..core.site import Site, Sites
from ..core.value import Coef, Value
from .weaker import AwayFromWeaker

Layers = tuple[float, float] | None
"""From and to which share of the self-attention layers, in the order of execution; None is the middle of the network:
the middle block of a UNet, the middle layer of a transformer."""


def self_attention(net: Sites, layers: Layers, what: object) -> list[Site]:
    """Sites where image tokens attend to each other: self-attention, and joint attention with text."""
    found = [s for s in net.attention() if s.role in ("self", "joint")]
    if not found:
        raise Refused(f"{what}: this network has no self-attention; use a UNet with attention, or a transformer")
    if layers is not None:
        chosen = [s for k, s in enumerate(found) if layers[0] <= k / len(found) < layers[1]]
        if not chosen:
            raise Refused(f"{what}: none of the {len(found)} layers of this network lies there; widen layers={layers}")
        return chosen
    if middle := [s for s in found if s.stage == "mid"]:
        return middle
    nearest = min(abs(s.depth - 0.5) for s in found)
    return [s for s in found if abs(s.depth - 0.5) == nearest]


def _checked(what: object, layers: Layers) -> None:
    if layers is not None and not 0.0 <= layers[0] < layers[1]:
        raise BadInput(f"{what}: layers are shares of the network; give 0 <= from < to, such as (0.4, 0.6), or None")


@method(paper="pag")
@dataclass(frozen=True)
class IdentityAttention(Patch):
    """Self-attention in which each image token attends to itself alone: A = I, so that the output is V.

    Where image and text attend jointly, image tokens keep their attention to the text, and of the image that to their
    own token; what is left is normalised again. Text tokens attend as ever.

    Args:
        layers: from and to which share of the self-attention layers; None is the middle.

    Raises:
        BadInput: no shares. Refused: a network without self-attention there.

    Example:
        >>> model.generate("a red circle", patches=[IdentityAttention()])

    Reference: Ahn et al., Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance, 2403.17377.
    """

    layers: Layers = None

    def __post_init__(self) -> None:
        _checked(self, self.layers)

    def sites(self, net: Sites) -> Sequence[Site]:
        return self_attention(net, self.layers, self)

    def probs(self, call: Call, p: Tensor) -> Tensor:
        image = call.span("image")
        own = p[:, :, image, image]
        itself = torch.eye(own.shape[-1], dtype=p.dtype, device=p.device)
        if own.shape == p.shape:
            return itself.expand_as(p)
        p = p.clone()
        p[:, :, image, image] = own * itself
        total = p[:, :, image].sum(-1, keepdim=True)
        p[:, :, image] = p[:, :, image] / total.clamp(min=torch.finfo(p.dtype).tiny)
        return p


@method(paper="seg")
@dataclass(frozen=True)
class BlurredQueries(Patch):
    """Self-attention with queries that a Gaussian filter smoothed over the picture, Q <- G_sigma * Q.

    That blurs the attention weights, and flattens the energy that attention descends. Where image and text attend
    jointly, the queries of image tokens are smoothed and those of the text are not.

    Args:
        sigma: standard deviation in tokens; inf gives every token the mean query, 0 changes nothing.
        layers: from and to which share of the self-attention layers; None is the middle.

    Raises:
        BadInput: a negative width, or no shares. Refused: a network without self-attention there.

    Example:
        >>> model.generate("a red circle", patches=[BlurredQueries(2.0)])

    Reference: Hong, Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of Attention,
    2408.00760.
    """

    sigma: float = math.inf
    layers: Layers = None

    def __post_init__(self) -> None:
        _checked(self, self.layers)
        if not self.sigma >= 0.0:
            raise BadInput(f"BlurredQueries(sigma={self.sigma}): a width is 0 or more; inf takes the mean")

    def neutral(self) -> BlurredQueries:
        """No blur."""
        return replace(self, sigma=0.0)

    def sites(self, net: Sites) -> Sequence[Site]:
        return [net.root, *self_attention(net, self.layers, self)]

    def around(self, call: Call) -> Any:
        if call.site.kind == "root":
            call.scratch["size"] = call["x"].shape[-2:]
        return call()

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.sigma == 0.0:
            return q, k, v
        image = call.span("image")
        tokens = q[:, :, image]
        height, width = _grid(tokens.shape[2], *call.scratch["size"])
        rows, columns = (_filter(n, self.sigma).to(q) for n in (height, width))
        blurred = torch.einsum("ij,lk,bhjkd->bhild", rows, columns, tokens.unflatten(2, (height, width)))
        q = q.clone()
        q[:, :, image] = blurred.flatten(2, 3)
        return q, k, v


def _grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of so many tokens of a picture of this size: the division nearest to its proportions."""
    heights = [h for h in range(1, tokens + 1) if tokens % h == 0]
    best = min(heights, key=lambda h: abs(math.log(h * h * width / (tokens * height))))
    return best, tokens // best


def _filter(n: int, sigma: float) -> Tensor:
    """(n, n) matrix of a Gaussian filter on n points, cut off at 3 sigma, which reflects what lies outside."""
    if sigma == math.inf or n == 1:
        return torch.full((n, n), 1.0 / n, dtype=torch.float64)
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    place = (torch.arange(n)[:, None] + offsets) % (2 * n - 2)
    place = torch.where(place < n, place, 2 * n - 2 - place)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    return matrix.scatter_add_(1, place, (weights / weights.sum()).expand(n, -1))


@dataclass(frozen=True)
class _Perturbed(AwayFromWeaker):
    """What both share."""

    scale: float = 3.0
    layers: Layers = None

    def __post_init__(self) -> None:
        _checked(self, self.layers)

    @property
    def strength(self) -> float:
        return self.scale

    def weaker(self, predict: Predict, x: Value, t: Coef, cond: Cond) -> Any:
        return predict.with_(self.patch)(x, t, cond, "perturbed")

    @property
    def patch(self) -> Patch:
        """What perturbs the network."""
        raise NotImplementedError


@method(paper="pag")
@dataclass(frozen=True)
class PAG(_Perturbed):
    """Perturbed-attention guidance: e + s (e(x, c) - e_hat(x, c)), where e_hat has the identity for self-attention.

    Without attention the picture loses its structure, and guidance leads away from that. `PAG(3) | CFG(5)` guides in
    both ways at three evaluations; alone it guides unconditional models, too.

    Args:
        scale: s; 0 is none.
        layers: where, see `IdentityAttention`.

    Raises:
        BadInput: no shares. Refused: a network without self-attention there.

    Example:
        >>> model.generate("a red circle", guidance=PAG(3) | CFG(5))

    Reference: Ahn et al., Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance, 2403.17377.
    """

    def neutral(self) -> PAG:
        """No guidance."""
        return replace(self, scale=0.0)

    @property
    def patch(self) -> Patch:
        return IdentityAttention(self.layers)


@method(paper="seg")
@dataclass(frozen=True)
class SEG(_Perturbed):
    """Smoothed energy guidance: e + s (e(x, c) - e_hat(x, c)), where e_hat has blurred queries in its self-attention.

    Args:
        scale: s; 0 is none.
        layers: where, see `BlurredQueries`.
        sigma: of the blur, in tokens; it controls the strength of the effect at the paper's fixed scale of 3.

    Raises:
        BadInput: no shares, or a negative width. Refused: a network without self-attention there.

    Example:
        >>> model.generate("a red circle", guidance=SEG(3) | CFG(5))

    Reference: Hong, Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of Attention,
    2408.00760.
    """

    sigma: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        BlurredQueries(self.sigma, self.layers)

    def neutral(self) -> SEG:
        """No guidance."""
        return replace(self, scale=0.0)

    @property
    def patch(self) -> Patch:
        return BlurredQueries(self.sigma, self.layers)
