"""Bi-directional integration approximation: every step corrects the one before it, and can be undone exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..core.errors import BadInput, Refused
from ..core.law import Law
from ..core.plugin import Needs
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Coef, Value, combine, where
from .ancestral import DDIM
from .multistep import History, blank, push, where_apart


@method(paper="bdia")
@dataclass(frozen=True)
class BDIA(Sampler):
    """z_{i-1} = gamma (z_{i+1} - B) + F  with F = solver(z_i; i -> i-1), B = solver(z_i; i -> i+1).

    The backward step B says what the step before should have come from; gamma weighs that correction. The first step
    is the solver's own. F and B of DDIM share one evaluation. z_{i+1} follows from z_i and z_{i-1} by the same formula
    with 1 / gamma, so the run is undone by `BDIA(gamma).inverse` on the times in reverse. States are added as they
    are: in EDM's sigma coordinates or those of rectified flow with `denoiser.under(VE())`, `denoiser.under(Flow())`.

    Args:
        gamma: 0 is the solver alone. 1 suits 40 steps and more, 0.5 suits 10, 0.92 to 1 are for inversion.
        solver: makes the increments; one of the ODE. With Heun() it is BDIA-EDM, at 3 evaluations a step, with
            DPMSolverPP() BDIA-DPM-Solver++; this one looks back by itself, and its runs cannot be undone.

    Raises:
        BadInput: gamma below 0, or a solver that draws noise.

    Example:
        >>> model.generate("a red circle", sampler=BDIA(0.5), steps=10)

    Reference: Zhang, Lewis and Kleijn, Exact Diffusion Inversion via Bi-directional Integration Approximation,
    2307.10829.

    Differs from the paper: any solver of the ODE; with Heun's method the backward step is evaluated at both of its ends
    as the forward one is.
    """

    gamma: float = 1.0
    solver: Sampler = DDIM()

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma < math.inf:
            raise BadInput(f"BDIA(gamma={self.gamma}): give 0 or more; 1 suits long runs, 0.5 runs of 10 steps")
        if self.solver.convergence is None:
            raise BadInput(f"BDIA(solver={self.solver}): draws noise; give a solver of the ODE such as DDIM()")

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return self.solver.needs

    @property
    def convergence(self) -> int:  # type: ignore[override]
        # at gamma = 1 the second-order errors of both directions cancel
        return max(self.solver.convergence or 0, 2 if self.gamma == 1.0 else 0)

    @property
    def inverse(self) -> BDIA:
        """The sampler that goes back, on the times in reverse, from the last two states."""
        if self.gamma == 0.0:
            raise Refused("BDIA(gamma=0): forgets the state before, so its steps have no inverse; use gamma=1")
        if type(self.solver).init is not Sampler.init:
            raise Refused(f"BDIA(solver={self.solver}): looks back further than two states; use DDIM() or Heun()")
        return replace(self, gamma=1.0 / self.gamma)

    def init(self, x: Value, at: Step) -> tuple[History, Any]:
        return blank(x, 1), self.solver.init(x, at)

    def step(self, predict: Ask, x: Value, at: Step, memory: tuple[History, Any]) -> tuple[Value, Any]:
        before, own = memory
        (place, z), p = before[0], predict(x, at.t)

        def ask(state: Value, t: Coef) -> Any:
            return p if state is x else predict(state, t)

        gamma = where_apart(at.t, place, where_apart(at.t, at.s, Coef(self.gamma)))
        forward, new = self.solver.step(ask, x, at, own)
        backward, _ = self.solver.step(ask, x, at.but(s=where(gamma > 0.0, place, at.t)), own)
        ends = [end.mean if isinstance(end, Law) else end for end in (forward, backward)]
        return combine((1.0, ends[0]), (gamma, z), (-gamma, ends[1])), (push(before, at.t, x), new)
