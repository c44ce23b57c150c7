"""PNDM: the Adams-Bashforth method on the noise prediction, carried to the next time by DDIM's step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.plugin import Needs
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Coef, Value, combine, where
from .deis import ADAMS_BASHFORTH
from .multistep import ZERO, History, blank, blend, known, push, where_apart


@method(paper="pndm")
@dataclass(frozen=True)
class PNDM(Sampler):
    """x_s = DDIM(x_t, e') with the transfer part of DDIM and the gradient part of a linear multistep method (PLMS):

        e' = (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3) / 24

    where e_0 is the noise predicted at t and e_1, e_2, e_3 that of the steps before. The first step is the pseudo
    improved Euler method, e' = (e(x_t, t) + e(DDIM(x_t, e), s)) / 2, which costs a second evaluation; the next two have
    the weights of orders 2 and 3. The weights are those of equal steps, whatever the spacing.

    `DEIS(3, "iPNDM")` begins with DDIM instead. Diffusers' PNDMScheduler with skip_prk_steps is this.

        sample(denoiser, (4, 4, 32, 32), sampler=PNDM(), spacing=Leading(offset=1), steps=50)

    Differs from the paper: its F-PNDM makes the first three steps by the pseudo Runge-Kutta method, four evaluations
    each. Where sigma / alpha is infinite, as at the start of flows, the step is DDIM's and the next one the first.

    Differs from diffusers' PNDMScheduler: predictions of v become noise before they are combined, not after.

    Reference: Liu et al., Pseudo Numerical Methods for Diffusion Models on Manifolds, 2202.09778.
    """

    needs = Needs.GAUSSIAN
    convergence = 1  # more on grids whose steps of sigma / alpha grow evenly: the weights are those of equal steps

    def init(self, x: Value, at: Step) -> History:
        return blank(x, len(ADAMS_BASHFORTH))

    def step(self, predict: Ask, x: Value, at: Step, memory: History) -> tuple[Value, History]:
        process, p = at.process, predict(x, at.t)
        alpha, sigma, here, there = process.alpha(at.s), process.sigma(at.s), process.rho(at.t), process.rho(at.s)
        length, past = where_apart(here, there, alpha * (there - here)), known(memory, here)

        def rule(k: int) -> Sequence[Coef]:
            change = [length * b for b in ADAMS_BASHFORTH[k - 1]] if k else []
            return [alpha, sigma - sum(change, ZERO), *change]

        x_s = blend(past, rule, [p.x0, p.eps, *(e for _, e in memory)])
        half = where(past == 0.0, where(sigma > 0.0, 0.5 * length, 0.0), 0.0)
        if not half.shared or half.d != 0.0:
            x_s = combine((1.0, x_s), (half, predict(x_s, at.s).eps), (-half, p.eps))
        return x_s, push(memory, here, p.eps)
