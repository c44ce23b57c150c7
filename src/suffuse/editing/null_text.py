"""Null-text inversion: the unconditional embedding of every step is fitted so that guidance gives the picture back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.engine import Start, sample
from ..core.errors import BadInput, Refused
from ..core.plugin import Needs
from ..core.registry import method
from ..core.step import Guidance, Hook, Predict, Step, StepFunction
from ..core.value import Coef, Value
from ..guidance.cfg import CFG
from .code import Code
from .ddim_inversion import pivots
from .inverter import Inverter, Plan

ENTRIES = ("text", "pooled")
"""What a prompt is made into; of the unconditional branch these are fitted."""


@method(paper="null-text")
@dataclass(frozen=True)
class NullText(Inverter, Hook):
    """argmin over null_t of |z*_{t-1} - DDIM_w(z_t; null_t, c)|^2 for t = T..1, and z_{t-1} is that step.

    z* is the path of DDIM inversion with scale 1; null_t starts from null_{t+1}. A picture leaves the optimisation of a
    step when its error is below `stop` + 2e-5 i, and its conditional prediction is computed once a step.

    Args:
        iterations: of Adam a step, at most.
        rate: of Adam at the first of 100 steps; it falls linearly, rate (1 - i / 100).
        stop: mean squared error at which the first step is good enough.

    Raises:
        Refused: decoding under another guidance than CFG, or without an unconditional text.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", inversion=NullText())

    Reference: Mokady et al., Null-text Inversion for Editing Real Images using Guided Diffusion Models, 2211.09794.
    """

    iterations: int = 10
    rate: float = 1e-2
    stop: float = 1e-5

    fits = ("model", "process", "times", "sampler", "guidance")

    def __post_init__(self) -> None:
        if not (isinstance(self.iterations, int) and self.iterations >= 0):
            raise BadInput(f"NullText(iterations={self.iterations!r}): give a whole number, 0 or more")

    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        if not isinstance(plan.guidance, CFG) or not any(k in cond.alt.get("null", ()) for k in ENTRIES):
            raise Refused(f"NullText: fits the unconditional text of CFG, not {plan.guidance}; use CFG on a text model")
        path = pivots(plan, x0, cond)
        fit = _Fit(self, plan.guidance.w)
        sample(
            plan.denoiser, Start.exactly(path[:, 0], plan.grid.node(0).item()), sampler=plan.sampler, grid=plan.grid,
            guidance=fit, noise=plan.noise, setting=plan.setting, cond=cond.with_alt(code=Cond({"pivots": path})),
        )  # fmt: skip
        nulls = {k: torch.stack([step[k] for step in fit.found], 1) for k in fit.found[0]}
        return Code(path[:, 0], plan.grid.node(0).item(), self, plan.place, extras=nulls)

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if "code" not in step.cond.alt:
            raise Refused("NullText: needs the code of a picture; run it through `suffuse.editing.edit`")
        own = {k: v[:, at.i] for k, v in step.cond.alt["code"].items()}
        return step.using(cond=_with_null(step.cond, own))(x, at)


@dataclass(frozen=True, eq=False)
class _Fit(Guidance):
    """CFG whose unconditional embedding is fitted at every step, so that the step meets the pivot."""

    of: NullText
    w: float
    found: list[dict[str, Tensor]] = field(default_factory=list)

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION | Needs.OUTERMOST | Needs.GRADIENT

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        null = self.found[-1] if self.found else {k: v for k, v in cond.branch("null").items() if k in ENTRIES}
        pivot = cond.alt["code"]["pivots"][:, at.i + 1]
        pc = predict(x, t, cond, "cond")
        # One leaf for each picture, so that Adam leaves those alone that are done.
        leaves = {k: [v[i : i + 1].detach().clone() for i in range(len(v))] for k, v in null.items()}
        adam = torch.optim.Adam([v for each in leaves.values() for v in each], self.of.rate * (1 - at.i / 100))
        live = torch.arange(len(at.samples))
        for _ in range(self.of.iterations):
            with torch.enable_grad():
                params = [leaves[k][i].requires_grad_() for k in leaves for i in live.tolist()]
                own = {k: torch.cat([v[i] for i in live.tolist()]) for k, v in leaves.items()}
                part = _with_null(cond[live], own)
                pu = predict[live](x[live], t[live], part.branch("null"), "null")
                error = (at[live].move(self._guided(pc[live], pu)) - pivot[live]).square().flatten(1).mean(1)
                slopes = torch.autograd.grad(error.sum(), params)
            adam.zero_grad()
            for v, slope in zip(params, slopes, strict=True):
                v.grad = slope
            adam.step()
            live = live[(error >= self.of.stop + 2e-5 * at.i).to(live.device)]
            if not len(live):
                break
        self.found.append({k: torch.cat(v).detach() for k, v in leaves.items()})
        return self._guided(pc, predict(x, t, _with_null(cond, self.found[-1]).branch("null"), "null"))

    def _guided(self, pc: Any, pu: Any) -> Any:
        return pc.mix([self.w, 1.0 - self.w], [pc, pu])


def _with_null(cond: Cond, entries: Mapping[str, Tensor]) -> Cond:
    """`cond` whose unconditional branch has these entries."""
    null = cond.alt["null"]
    return cond.with_alt(null=Cond({**null.entries, **entries}, null.alt, null.spans))
