"""DDIM inversion: the deterministic sampler run from the picture to noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.engine import sample
from ..core.grid import Grid
from ..core.law import Law
from ..core.plugin import Needs
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Value
from .code import Code
from .inverter import Inverter, Plan


@dataclass(frozen=True)
class ReverseDDIM(Sampler):
    """x_s = alpha_s x0 + sigma_s eps for s > t, with the prediction that DDIM will use on its way back, at time s.

    The state at s is what is sought, so the network is asked at time s about the state at t; what it says is read at
    the noise level that the state has. On the linear flow path it is Euler's method with velocity v(x_t, s).

    Reference: Song et al., Denoising Diffusion Implicit Models, 2010.02502.
    """

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        p = predict(x, at.s)
        here = replace(p, a=at.process.alpha(at.t), s=at.process.sigma(at.t))
        return at.process.posterior(x, here, at.t, at.s, 0.0), memory


def pivots(plan: Plan, x0: Tensor, cond: Cond, w: float = 1.0, first: int = 0) -> Tensor:
    """(B, k + 1, ...): states z*_T .. z*_0 of the inversion at the times of the plan's grid from step `first` on."""
    back = Grid(plan.grid.times[first:].flip(0))
    run = sample(
        plan.denoiser, x0, sampler=ReverseDDIM(), grid=back, cond=cond, guidance=plan.guide(w), setting=plan.setting,
        save=lambda run: run.state.x,
    )  # fmt: skip
    return torch.stack(run.saved, 1).flip(1)


@method(paper="ddim")
@dataclass(frozen=True)
class DDIMInversion(Inverter):
    """z*_0 -> z*_1 -> ... -> z*_T by DDIM in reverse; decoding starts from z*_T and remembers nothing else.

    Args:
        w: guidance scale of the inversion; without guidance, at 1, it is most exact.
        strength: share of the steps that are inverted, 0 to 1.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", inversion=DDIMInversion())

    Reference: Song et al., Denoising Diffusion Implicit Models, 2010.02502.
    """

    w: float = 1.0
    strength: float = 1.0

    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        first = plan.first(self.strength, self)
        found = pivots(plan, x0, cond, self.w, first)
        return Code(found[:, 0], plan.grid.node(first).item(), self, plan.place)
