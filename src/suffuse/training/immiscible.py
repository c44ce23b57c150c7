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

from ..core.errors import BadInput
from ..core.registry import method
from ..core.value import Value, flat
from .denoising import Pairing


@method(paper="immiscible")
@dataclass(frozen=True)
class Immiscible(Pairing):
    """Permute the batch's noises so that sum_i | x_i - eps_pi(i) |_2 is least; the loss is unchanged.

    A permutation of independent noises leaves their marginal law exactly N(0, I). Conditions stay with their samples.
    Works in every objective that draws noise for data: DDPM, flow matching, consistency training, fine-tuning.

    Args:
        scale: factor on both sides before the distances are quantised to half precision (the paper's 0.1).

    Example:
        >>> Denoising(pairing=Immiscible())

    With torch.distributed the assignment covers the global batch: states and noises are gathered, the problem is
    solved on every rank alike, and each keeps its rows.

    Differs from the paper: distances are computed in float32 from values rounded to half precision, since half
    precision arithmetic is slow on CPUs.
    """

    scale: float = 0.1

    def __call__(self, x0: Value, eps: Value, draw: Any) -> Value:
        x, e = flat(x0), flat(eps)
        size, rank = len(x), 0
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            rank = dist.get_rank()
            x, e = _gathered(x), _gathered(e)
        mine = slice(size * rank, size * (rank + 1))
        order = torch.from_numpy(assignment(distances(x, e, self.scale)))[mine]
        if len(x) == size:
            return eps[order]
        assert isinstance(eps, Tensor)  # a gathered Tree would be split back part by part; no method needs it yet
        return e[order].reshape(eps.shape).to(eps)


@method(paper="immiscible")
@dataclass(frozen=True)
class NearestNoise(Pairing):
    """Draw k noises for each sample and keep the nearest: the authors' later variant, without an assignment problem.

    The law of the kept noise is no longer exactly N(0, I): it leans towards the data, the more the larger k.

    Args:
        k: candidates, >= 1; 1 is plain training. The authors use 4 to 64.
    """

    k: int = 64

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadInput(f"NearestNoise(k={self.k}): give at least 1 candidate")

    def __call__(self, x0: Value, eps: Value, draw: Any) -> Value:
        if self.k == 1:
            return eps
        assert isinstance(eps, Tensor) and isinstance(x0, Tensor)
        candidates = torch.stack([eps] + [draw(eps, f"candidate/{i}") for i in range(1, self.k)], 1)
        gap = (candidates - x0[:, None]).flatten(2).norm(dim=2)
        return candidates[torch.arange(len(eps)), gap.argmin(1)]


def distances(x: Tensor, e: Tensor, scale: float = 0.1) -> Tensor:
    """(B, B) Euclidean distances between rows, from values in half precision."""
    return torch.cdist((scale * x).half().float(), (scale * e).half().float())


def assignment(cost: Tensor) -> Any:
    """For each row of a cost matrix its column in the cheapest one-to-one assignment."""
    return linear_sum_assignment(cost.cpu().numpy())[1]


def _gathered(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
