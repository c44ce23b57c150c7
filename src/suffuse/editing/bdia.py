"""Exact inversion: BDIA undone step by step, from the picture to the last two states."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.cond import Cond
from ..core.engine import sample
from ..core.errors import Refused
from ..core.grid import Grid
from ..core.hook import Hook, StepFunction
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value
from ..samplers.bdia import BDIA
from .code import Code
from .ddim_inversion import ReverseDDIM
from .inverter import Inverter, Plan


@method(paper="bdia")
@dataclass(frozen=True)
class BDIAInversion(Inverter, Hook):
    """z_{i+1} = B + (z_{i-1} - F) / gamma up to noise; the code is the pair (z_T, z_{T-1}).

    F and B are the solver's steps from z_i to i - 1 and to i + 1, under the guidance of decoding, whose steps are so
    undone one by one: the source comes back up to rounding, whatever the guidance scale. The step from the picture to
    z_1 is the solver's own. Decoding begins with the pair; its first evaluation serves editors alone.

    Args:
        strength: share of the steps that are inverted, 0 to 1.

    Raises:
        Refused: decoding with another sampler than BDIA, or with one that forgets the state before (gamma = 0).

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", inversion=BDIAInversion(), sampler=BDIA())

    Reference: Zhang, Lewis and Kleijn, Exact Diffusion Inversion via Bi-directional Integration Approximation,
    2307.10829.
    """

    strength: float = 1.0

    fits = ("model", "process", "times", "sampler", "guidance")

    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        if not isinstance(plan.sampler, BDIA):
            raise Refused(f"BDIAInversion: undoes the steps of BDIA, not of {plan.sampler}; give sampler=BDIA()")
        first = plan.first(self.strength, self)
        back = Grid(plan.grid.times[first:].flip(0))
        run = sample(
            plan.denoiser, x0, sampler=plan.sampler.inverse, grid=back, cond=cond, guidance=plan.guidance,
            hooks=[_Mirrored(plan.grid.n)], setting=plan.setting, save=lambda run: run.state.x,
        )  # fmt: skip
        *_, after, start = run.saved
        return Code(start, plan.grid.node(first).item(), self, plan.place, extras={"after": after})

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if "code" not in step.cond.alt:
            raise Refused("BDIAInversion: needs the code of a picture; run it through `suffuse.editing.edit`")
        z = step(x, at)  # the sampler remembers x
        return step.cond.alt["code"]["after"] if at.first else z


@dataclass(frozen=True)
class _Mirrored(Hook):
    """Counts steps as decoding counts those that ask at the same state, for what holds in a part of the run.

    The first step asks at the later of its times: of noise in the picture itself a network knows nothing.
    """

    n: int

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        here = at.but(i=self.n - at.i, n=self.n)
        z = step(x, here)
        return step.using(sampler=ReverseDDIM())(x, here) if at.first else z
