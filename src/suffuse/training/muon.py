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
    """About U V^T of each of the matrices (N, r, c) = U S V^T: singular values moved into [0.5, 1.2].

    Newton-Schulz X <- a X + b (X X^T) X + c (X X^T)^2 X. As each X is a polynomial of X_0 X_0^T times X_0, very oblong
    matrices iterate on their Gram matrix, in float32, for bfloat16 is too coarse for it; the others do without, in
    bfloat16.
    """
    turned = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT.contiguous() if turned else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    oblong = x.shape[2] > 6 * x.shape[1]
    x = _by_gram(x, iterations) if oblong else _directly(x.bfloat16(), iterations).to(matrices)
    return x.mT if turned else x


def _directly(x: Tensor, iterations: int) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor, iterations: int) -> Tensor:
    a, b, c = COEFFICIENTS
    gram = x @ x.mT
    eye = a * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    total = None
    for k in range(iterations):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + eye
        total = factor if total is None else factor @ total
        if k + 1 < iterations:
            gram = factor @ gram @ factor
    return x if total is None else total @ x


class MuonWithAdam(torch.optim.Optimizer):
    """The optimiser of `Muon`: parameters of at least two axes as matrices (first axis, rest), the others by Adam."""

    def __init__(self, params: Sequence[Tensor], lr: float, momentum: float, weight_decay: float, least: int):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "least": least})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            others: list[Tensor] = []
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.ndim > 1 and min(len(p), p[0].numel()) >= group["least"]:
                    alike[len(p), p[0].numel()].append(p)
                else:
                    others.append(p)
            for (rows, columns), params in alike.items():
                self._muon(params, group, 0.2 * max(rows, columns) ** 0.5)
            if others:
                self._adam(others, group["lr"])

    def _muon(self, params: list[Tensor], group: dict[str, Any], scale: float) -> None:
        moments = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
        grads = _gradients(params)
        torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, moments, group["momentum"])
        steps = orthogonal(torch.stack([step.flatten(1) for step in ahead]))
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        shaped = [step.view_as(p) for step, p in zip(steps, params, strict=True)]
        torch._foreach_add_(params, shaped, alpha=-group["lr"] * scale)

    def _adam(self, params: list[Tensor], lr: float) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p].update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            self.state[p]["step"] += 1
        grads = _gradients(params)
        means, squares = ([self.state[p][name] for p in params] for name in ("mean", "square"))
        torch._foreach_lerp_(means, grads, 0.1)
        torch._foreach_mul_(squares, 0.99)
        torch._foreach_addcmul_(squares, grads, grads, value=0.01)
        counts = [self.state[p]["step"] for p in params]
        spread = torch._foreach_div(squares, [1 - 0.99**n for n in counts])
        torch._foreach_sqrt_(spread)
        torch._foreach_add_(spread, 1e-8)
        torch._foreach_addcdiv_(params, means, spread, [-lr / (1 - 0.9**n) for n in counts])


def _gradients(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


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
