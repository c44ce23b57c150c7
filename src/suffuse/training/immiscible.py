"""Immiscible Diffusion: give each sample of a batch a nearby noise.

Reference: Li et al., Immiscible Diffusion: Accelerating Diffusion Training with Noise Assignment, 2406.12303.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.errors import BadInput
from ..core.registry import method
from ..core.value import Value, batch_size, flat
from .denoising import Pairing


@method(paper="immiscible")
@dataclass(frozen=True)
class Immiscible(Pairing):
    """Permute the batch's noises by pi = argmin_pi sum_i | x_i - eps_pi(i) |_2; the loss is unchanged.

    A permutation of independent noises leaves the law of the batch's noises exactly N(0, I); what each sample meets
    depends on it, and that is the point. Conditions stay with their samples. It is a slot of the objective, so it works
    for every kind of prediction, every Gaussian process and for fine-tuning through adapters; states of several parts
    are compared as one vector. With torch.distributed the assignment covers the global batch.

    Args:
        scale: factor on both sides before the distances are quantised to half precision (the paper's 0.1).

    Example:
        >>> from suffuse.training import Denoising, Immiscible
        >>> objective = Denoising(pairing=Immiscible())

    Differs from the paper: values are rounded to half precision and their distances computed in float32, since half
    precision arithmetic is slow on CPUs; every process solves the gathered problem, instead of one that scatters.
    """

    scale: float = 0.1

    def __call__(self, x0: Value, eps: Value, draw: Any) -> Value:
        size, rank, ranks = batch_size(x0), 0, 1
        if dist.is_available() and dist.is_initialized():
            rank, ranks = dist.get_rank(), dist.get_world_size()
        if ranks > 1:
            x0, eps = _gathered(x0), _gathered(eps)
        order = torch.from_numpy(assignment(distances(x0, eps, self.scale)))
        own = order[size * rank : size * (rank + 1)]
        return pytree.tree_map(lambda leaf: leaf[own.to(leaf.device)], eps)


@method(paper="immiscible")
@dataclass(frozen=True)
class NearestNoise(Pairing):
    """Draw k noises for each sample and keep argmin_j | x_i - eps_ij |_2: the authors' later variant.

    It needs no assignment and no exchange between processes. The law of the kept noise is no longer N(0, I): its mean
    moves towards the data and its variance along it falls, the more the larger k.

    Args:
        k: candidates, >= 1; 1 is plain training. The authors use 4 to 64.

    Raises:
        BadInput: k below 1.

    Reference: Li et al., Improved Immiscible Diffusion, 2505.18521.
    """

    k: int = 64

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadInput(f"NearestNoise(k={self.k}): give at least 1 candidate")

    def __call__(self, x0: Value, eps: Value, draw: Any) -> Value:
        if self.k == 1:
            return eps
        more = draw(pytree.tree_map(lambda leaf: leaf[:, None].expand(-1, self.k - 1, *leaf.shape[1:]), eps), "nearest")
        candidates = pytree.tree_map(lambda leaf, others: torch.cat([leaf[:, None], others], 1), eps, more)
        gap = flat(pytree.tree_map(lambda leaf, x: (leaf - x[:, None]).flatten(2).square().sum(2), candidates, x0))
        nearest = gap.view(len(gap), -1, self.k).sum(1).argmin(1)
        return pytree.tree_map(lambda leaf: leaf[torch.arange(len(leaf), device=leaf.device), nearest], candidates)


def distances(x: Value, e: Value, scale: float = 0.1) -> Tensor:
    """(B, B) Euclidean distances between rows, times `scale`, from values in half precision."""
    return torch.cdist((scale * flat(x)).half().float(), (scale * flat(e)).half().float())


def assignment(cost: Tensor) -> Any:
    """For each row of a cost matrix its column in the cheapest one-to-one assignment."""
    return linear_sum_assignment(cost.cpu().numpy())[1]


def _gathered(x: Value) -> Value:
    """The rows of all processes in the order of their ranks."""

    def gather(leaf: Tensor) -> Tensor:
        parts = [torch.empty_like(leaf) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, leaf.contiguous())
        return torch.cat(parts)

    return pytree.tree_map(gather, x)
