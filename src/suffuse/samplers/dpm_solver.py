"""DPM-Solver++: exponential integrators of the data prediction in log-SNR, for the ODE and the SDE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.errors import BadInput
from ..core.law import Law, Normal
from ..core.plugin import Needs
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Coef, Value, expm1, minimum, sqrt, where
from .multistep import ZERO, History, blank, blend, known, push, seen_from_noise, where_apart


@method(paper="dpm-solver-plus-plus", tags=("saves steps",))
@dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """x_s = DDIM(x_t) + alpha_s times what x0 gains over the step, extrapolated in lambda = log(alpha / sigma).

    With m_0, m_1, m_2 the newest predictions of x0, h = lambda_s - lambda_t, z = h (2 h for the SDE),
    r_j = (lambda_j - lambda_{j+1}) / h, d_j = (m_j - m_{j+1}) / r_j and phi = (1 - e^-z) / z, the gain is

        order 2:  (1 - e^-z) / 2 d_0
        order 3:  (1 - phi) D_1 + ((phi - 1) / z + 1/2) D_2,
                  D_1 = d_0 + r_0 / (r_0 + r_1) (d_0 - d_1),  D_2 = (d_0 - d_1) / (r_0 + r_1)

    Order 2 and 3 are known as DPM++ 2M and 3M; order 1 is DDIM, and DDPM with `sde`. The first steps, and a step to
    pure data, are of lower order.

    Args:
        order: 1, 2 or 3.
        sde: solve the SDE instead of the ODE, with fresh noise in each step.
        lower_order_final: lower the order in the last two steps of runs of fewer than 15.
        euler_at_final: order 1 in the last step of every run.

    Of a whole run order 3 is a better method of second order, not one of third: its first step is DDIM, and D_2 has
    half the weight of a third derivative, in the authors' code and diffusers' as here.

    Differs from diffusers' DPMSolverMultistepScheduler: in the SDE of order 3 the term of D_2 has +1/2, as in the ODE;
    with their -1/2 its error is that of order 1.

    Reference: Lu et al., DPM-Solver++, 2211.01095.
    """

    order: int = 2
    sde: bool = False
    lower_order_final: bool = True
    euler_at_final: bool = False

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise BadInput(f"DPMSolverPP(order={self.order}): the order is 1, 2 or 3; 2 suits guided sampling")

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        return None if self.sde else min(self.order, 2)

    def init(self, x: Value, at: Step) -> History:
        return blank(x, self.order - 1)

    def step(self, predict: Ask, x: Value, at: Step, memory: History) -> tuple[Value | Law, History]:
        process, p = at.process, predict(x, at.t)
        here, there = process.logsnr(at.t), process.logsnr(at.s)
        alpha, sigma = process.alpha(at.s), process.sigma(at.s)
        std = process.reverse_std(at.t, at.s) if self.sde else ZERO
        kept = sqrt(where(std < sigma, sigma * sigma - std * std, 0.0)) if self.sde else sigma

        def rule(k: int) -> Sequence[Coef]:
            gain = self._gain(k, there - here, [here, *(place for place, _ in memory)])
            return [kept, alpha - alpha * sum(gain, ZERO), *(alpha * g for g in gain)]

        order = where_apart(here, there, self._usable(at, known(memory, here)))
        mean = blend(order, rule, [p.eps, p.x0, *(m for _, m in memory)])
        return (Normal(mean, std) if self.sde else mean), push(memory, seen_from_noise(here), p.x0)

    def _usable(self, at: Step, most: Coef) -> Coef:
        """How many past predictions to use, of `most` that there are."""
        left = at.n - at.i - 1
        if self.euler_at_final and left == 0:
            return ZERO
        return minimum(most, left) if self.lower_order_final and at.n < 15 else most

    def _gain(self, k: int, h: Coef, at: Sequence[Coef]) -> list[Coef]:
        """Weights of m_1 - m_0, m_2 - m_0 in the gain, for k past predictions at the log-SNRs `at`."""
        if k == 0:
            return []
        z, r0 = (2.0 * h if self.sde else h), (at[0] - at[1]) / h
        if k == 1:
            return [0.5 * expm1(-z) / r0]
        r1, phi = (at[1] - at[2]) / h, -expm1(-z) / z
        first, second = 1.0 - phi, (phi - 1.0) / z + 0.5
        back = (first * r0 + second) / (r0 + r1)  # the gain is (first + back) d_0 - back d_1
        return [-(first + back) / r0 - back / r1, back / r1]
