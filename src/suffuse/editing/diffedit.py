"""DiffEdit: where two prompts predict different noise is where the picture is to change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput, Refused
from ..core.hook import Hook, StepFunction
from ..core.plugin import Needs
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value, put
from .branches import Pairs, pairs_at
from .code import Code
from .ddim_inversion import pivots
from .inverter import Inverter, Plan
from .keep_outside import composite

CLIP = 3.0
"""A difference counts up to so many times its mean, so that single cells do not set the scale."""


@method(paper="diffedit", tags=("inpainting",))
@dataclass(frozen=True)
class DiffEdit(Inverter, Hook):
    """m = [ |e(x_t, target) - e(x_t, source)| > threshold ],  z_t <- m z_t + (1 - m) z*_t.

    The difference of the two noise predictions at the noised picture is averaged over several noises and channels,
    clipped at three times its mean and scaled to [0, 1]. z* is the path of DDIM inversion, from which the edit starts;
    outside of the mask it is put back at every step, and the source branch stays on it.

    Args:
        strength: encoding ratio r, share of the steps that are inverted and made again.
        level: share of the grid up to which the picture is noised for the mask.
        draws: noises.
        threshold: of the scaled difference, 0 to 1; below 0 all is free.
        w: guidance scale of the inversion.

    Raises:
        BadInput: numbers out of range. Refused: it runs without a source branch.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", inversion=DiffEdit(), editor=())

    Reference: Couairon et al., DiffEdit: Diffusion-based semantic image editing with mask guidance, 2210.11427.

    Differs from the paper: the inversion is told the source prompt, as all inversions here; the paper's is told none.
    """

    strength: float = 0.7
    level: float = 0.5
    draws: int = 10
    threshold: float = 0.5
    w: float = 1.0

    needs = Needs.COUPLES | Needs.GAUSSIAN

    def __post_init__(self) -> None:
        if not 0.0 < self.level <= 1.0 or not (isinstance(self.draws, int) and self.draws >= 1):
            raise BadInput(
                f"DiffEdit(level={self.level}, draws={self.draws}): level lies in (0, 1], draws is 1 or more"
            )

    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        first = plan.first(self.strength, self)
        path = pivots(plan, x0, cond, self.w, first)
        return Code(path[:, 0], plan.grid.node(first).item(), self, plan.place, extras={"pivots": path})

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        pairs = targets, sources = pairs_at(at.samples, step.cond, self)
        if "code" not in step.cond.alt:
            raise Refused("DiffEdit: needs the code of a picture; run it through `suffuse.editing.edit`")
        path = step.cond.alt["code"]["pivots"]
        mask = at.memory.get("mask")
        if mask is None:
            mask = at.memory["mask"] = self.mask(step, path[:, -1], pairs, at)
        kept = path[:, at.i - at.n]
        out = composite(kept, step(x, at), mask)
        return put(out, sources, kept[sources])

    def mask(self, step: StepFunction, x0: Tensor, pairs: Pairs, at: Step) -> Tensor:
        """(B, 1, h, w) of 0 and 1 on the grid of states, for the targets among the rows; the other rows are 0."""
        targets, sources = pairs
        t = at.grid.node(at.n - max(1, round(at.n * self.level)))
        ask, total = step.predict(at).plain, torch.zeros_like(x0[targets][:, :1])
        for k in range(self.draws):
            z = at.noise(x0, f"diffedit/{k}")
            shared = put(z, targets, z[sources])  # both prompts are asked about the same state
            eps = ask(at.process.alpha(t) * x0 + at.process.sigma(t) * shared, t, step.cond, "mask/cond").eps
            total = total + (eps[targets] - eps[sources]).abs().mean(1, keepdim=True)
        top = CLIP * total.mean((2, 3), keepdim=True)
        scaled = total.clamp(max=top) / top.clamp(min=torch.finfo(top.dtype).tiny)
        return put(torch.zeros_like(x0[:, :1]), targets, (scaled > self.threshold).to(x0))
