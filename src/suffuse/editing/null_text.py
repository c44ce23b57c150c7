"""Null-text inversion: the unconditional embedding of every step is fitted so that guidance gives the picture back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.engine import Start, sample
from ..core.errors import BadInput, Refused, nearest
from ..core.guidance import Guidance
from ..core.hook import Hook, StepFunction
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value, put
from ..guidance.cfg import CFG
from .branches import pairs_at
from .code import Code
from .ddim_inversion import pivots
from .inverter import Inverter, Plan

ENTRIES = ("text", "pooled")
"""What a prompt is made into; of one branch these are fitted."""

PIVOTS = ("inversion", "noise", "none")
"""Where the states come from that the steps are to meet: DDIM inversion, one random noise, a new one for each step."""


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
        pivot: "inversion"; the paper's ablations are "noise", z*_t = alpha_t x0 + sigma_t eps of one random eps, and
            "none", of another eps for each t.
        each: False fits one embedding, over all steps in turn, and decodes with it alone; an ablation of the paper.
        branch: "null"; "cond" fits the source's prompt c instead, and leaves the null text, an ablation of the paper.

    Raises:
        Refused: decoding under another guidance than CFG, or without an unconditional text.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", inversion=NullText())

    Reference: Mokady et al., Null-text Inversion for Editing Real Images using Guided Diffusion Models, 2211.09794.
    """

    iterations: int = 10
    rate: float = 1e-2
    stop: float = 1e-5
    pivot: str = "inversion"
    each: bool = True
    branch: str = "null"

    fits = ("model", "process", "times", "sampler", "guidance")

    def __post_init__(self) -> None:
        if not (isinstance(self.iterations, int) and self.iterations >= 0):
            raise BadInput(f"NullText(iterations={self.iterations!r}): give a whole number, 0 or more")
        for name, known in (("pivot", PIVOTS), ("branch", ("null", "cond"))):
            if getattr(self, name) not in known:
                raise BadInput(f"NullText({name}={getattr(self, name)!r}): {nearest(getattr(self, name), known)}")

    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        if not isinstance(plan.guidance, CFG) or not any(k in cond.alt.get("null", ()) for k in ENTRIES):
            raise Refused(f"NullText: fits the unconditional text of CFG, not {plan.guidance}; use CFG on a text model")
        path = self._path(plan, x0, cond)
        fit = _Fit(self, plan.guidance.w)
        sample(
            plan.denoiser, Start.exactly(path[:, 0], plan.grid.node(0).item()), sampler=plan.sampler, grid=plan.grid,
            guidance=fit, noise=plan.noise, setting=plan.setting, cond=cond.with_alt(code=Cond({"pivots": path})),
        )  # fmt: skip
        found = fit.found if self.each else fit.found[-1:] * plan.grid.n
        texts = {k: torch.stack([step[k] for step in found], 1) for k in found[0]}
        return Code(path[:, 0], plan.grid.node(0).item(), self, plan.place, extras=texts)

    def _path(self, plan: Plan, x0: Tensor, cond: Cond) -> Tensor:
        """(B, n + 1, ...): what the steps are to meet."""
        if self.pivot == "inversion":
            return pivots(plan, x0, cond)
        process, nodes = plan.denoiser.process.given(cond), range(plan.grid.n + 1)
        keys = [f"pivot/{i}" if self.pivot == "none" else "pivot" for i in nodes]
        laws = [process.marginal(x0, plan.grid.node(i)) for i in nodes]
        return torch.stack(
            [law.at(plan.noise.normal(x0, range(len(x0)), key)) for law, key in zip(laws, keys, strict=True)], 1
        )

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        cond = step.cond
        if "code" not in cond.alt:
            raise Refused("NullText: needs the code of a picture; run it through `suffuse.editing.edit`")
        own = {k: v[:, at.i] for k, v in cond.alt["code"].items()}
        if self.branch == "cond":  # the target has a prompt of its own
            targets, _ = pairs_at(at.samples, cond, self)
            own = {k: put(v, targets, cond[k][targets]) for k, v in own.items()}
        return step.using(cond=_with(cond, self.branch, own))(x, at)


@dataclass(frozen=True, eq=False)
class _Fit(Guidance):
    """CFG of which one branch's embedding is fitted at every step, so that the step meets the pivot."""

    of: NullText
    w: float
    found: list[dict[str, Tensor]] = field(default_factory=list)

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION | Needs.OUTERMOST | Needs.GRADIENT

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        mine, other = (self.of.branch, "cond" if self.of.branch == "null" else "null")
        start = self.found[-1] if self.found else {k: v for k, v in _of(cond, mine).items() if k in ENTRIES}
        pivot = cond.alt["code"]["pivots"][:, at.i + 1]
        fixed = predict(x, t, _of(cond, other), other)
        # One leaf for each picture, so that Adam leaves those alone that are done.
        leaves = {k: [v[i : i + 1].detach().clone() for i in range(len(v))] for k, v in start.items()}
        adam = torch.optim.Adam([v for each in leaves.values() for v in each], self.of.rate * (1 - at.i / 100))
        live = torch.arange(len(at.samples))
        for _ in range(self.of.iterations):
            with torch.enable_grad():
                params = [leaves[k][i].requires_grad_() for k in leaves for i in live.tolist()]
                own = {k: torch.cat([v[i] for i in live.tolist()]) for k, v in leaves.items()}
                p = predict[live](x[live], t[live], _of(_with(cond[live], mine, own), mine), mine)
                error = (at[live].move(self._guided(p, fixed[live])) - pivot[live]).square().flatten(1).mean(1)
                slopes = torch.autograd.grad(error.sum(), params)
            adam.zero_grad()
            for v, slope in zip(params, slopes, strict=True):
                v.grad = slope
            adam.step()
            live = live[(error >= self.of.stop + 2e-5 * at.i).to(live.device)]
            if not len(live):
                break
        self.found.append({k: torch.cat(v).detach() for k, v in leaves.items()})
        return self._guided(predict(x, t, _of(_with(cond, mine, self.found[-1]), mine), mine), fixed)

    def _guided(self, fitted: Any, fixed: Any) -> Any:
        own, other = (1.0 - self.w, self.w) if self.of.branch == "null" else (self.w, 1.0 - self.w)
        return fitted.mix([own, other], [fitted, fixed])


def _of(cond: Cond, branch: str) -> Cond:
    return cond if branch == "cond" else cond.branch(branch)


def _with(cond: Cond, branch: str, entries: Mapping[str, Tensor]) -> Cond:
    """`cond` of which one branch has these entries."""
    old = cond if branch == "cond" else cond.alt[branch]
    new = Cond({**old.entries, **entries}, old.alt, old.spans)
    return new if branch == "cond" else cond.with_alt(**{branch: new})
