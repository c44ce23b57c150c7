"""Muon: momentum whose matrices are made orthogonal before the step; Adam for everything that is no matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.training import Optimiser
from .optimisers import ConstantRate, Schedule

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """About U V^T of each of the matrices (N, r, c) = U S V^T: singular values moved into [0.7, 1.2].

    Newton-Schulz X <- a X + b (X X^T) X + c (X X^T)^2 X. As each X is a polynomial of X_0 X_0^T times X_0, the
    iteration runs on the r x r Gram matrix and touches the c columns only at its ends.
    """
    turned = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if turned else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    gram = x @ x.mT
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    total = eye.expand_as(gram)
    for _ in range(iterations):
        factor = a * eye + b * gram + c * (gram @ gram)
        gram = factor @ gram @ factor
        total = factor @ total
    x = total @ x
    return x.mT if turned else x


class MuonWithAdam(torch.optim.Optimizer):
    """The optimiser of `Muon`: parameters of at least two axes as matrices (first axis, rest), the others by Adam."""

    def __init__(self, params: Sequence[Tensor], lr: float, momentum: float, weight_decay: float, least: int):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "least": least})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.ndim > 1 and min(len(p), p[0].numel()) >= group["least"]:
                    alike[len(p), p[0].numel()].append(p)
                else:
                    self._adam(p, group["lr"])
            for (rows, columns), params in alike.items():
                self._muon(params, group, 0.2 * max(rows, columns) ** 0.5)

    def _muon(self, params: list[Tensor], group: dict[str, Any], scale: float) -> None:
        moments = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
        grads = [p.grad for p in params]
        torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, moments, group["momentum"])
        steps = orthogonal(torch.stack([step.flatten(1) for step in ahead]))
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, [s.view_as(p) for s, p in zip(steps, params, strict=True)], alpha=-group["lr"] * scale)

    def _adam(self, p: Tensor, lr: float) -> None:
        state = self.state[p]
        if not state:
            state["step"], state["mean"], state["square"] = 0, torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        state["mean"].lerp_(p.grad, 0.1)
        state["square"].mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
        mean, square = state["mean"] / (1 - 0.9 ** state["step"]), state["square"] / (1 - 0.99 ** state["step"])
        p.addcdiv_(mean, square.sqrt_().add_(1e-8), value=-lr)


@dataclass(frozen=True)
class Muon(Optimiser):
    """W <- W - lr 0.2 sqrt(max(r, c)) orthogonal(momentum), for convolutions and linear layers as r x c matrices.

    The factor gives the step the size of an AdamW step, so that learning rates carry over (Liu et al., 2502.16982).
    Biases, norms and matrices with a side below `least` move by Adam at the same rate. Tables of embeddings are
    matrices to it; train those with AdamW.

    Args:
        lr: learning rate before the schedule.
        momentum: of the gradient, with Nesterov's look ahead.
        weight_decay: per step, times the learning rate.
        least: smallest side of a matrix.
        schedule: factor of the learning rate over the run.

    Reference: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    """

    lr: float = 1e-3
    momentum: float = 0.95
    weight_decay: float = 0.0
    least: int = 8
    schedule: Schedule = field(default_factory=ConstantRate)

    def build(self, params: Sequence[Tensor]) -> torch.optim.Optimizer:
        return MuonWithAdam(params, self.lr, self.momentum, self.weight_decay, self.least)

    def rate(self, step: int, steps: int) -> float:
        return self.lr * self.schedule(step, steps)
