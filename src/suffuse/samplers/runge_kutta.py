"""Explicit Runge-Kutta methods on the straightened ODE: several evaluations a step, tableaux as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import BadInput
from ..core.plugin import Needs
from ..core.process import Gaussian
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Coef, Value, combine, where
from .churn import Churned

PURE = 1e-6
"""Where alpha(1) is below this the process ends in pure noise, and sigma / alpha is no coordinate at its end."""


@dataclass(frozen=True)
class Tableau:
    """Butcher's coefficients of an explicit method.

    Args:
        a: for each stage after the first, the weights of the derivatives before it, whose sum is where it stands.
        b: weights of all derivatives in the step.
    """

    a: Sequence[Sequence[float]]
    b: Sequence[float]


TABLEAUX: Mapping[int, Tableau] = {
    2: Tableau([[1.0]], [1 / 2, 1 / 2]),  # Heun
    3: Tableau([[1 / 2], [-1.0, 2.0]], [1 / 6, 4 / 6, 1 / 6]),  # Kutta
    4: Tableau([[1 / 2], [0.0, 1 / 2], [0.0, 0.0, 1.0]], [1 / 6, 2 / 6, 2 / 6, 1 / 6]),  # the classical method
}
"""By order."""


def advance(predict: Ask, x: Value, process: Gaussian, t: Coef, s: Coef, tableau: Tableau) -> Value:
    """One step of the method from t to s.

    It solves d(x / alpha) / d(rho) = eps over rho = sigma / alpha. Processes that end in pure noise, such as flows,
    have no rho there; for them d(x / (alpha + sigma)) / du = eps - x0 over u = sigma / (alpha + sigma) is solved, which
    is the velocity of rectified flow. With c = 0 or 1 both are  d(x / (alpha + c sigma)) = (eps - c x0) du.

    A step to pure data takes one evaluation, because a prediction at the data itself means nothing.
    """
    c = where(process.alpha(Coef(1.0)) < PURE, 1.0, 0.0)

    def frame(t: Coef) -> tuple[Coef, Coef]:
        alpha, sigma = process.alpha(t), process.sigma(t)
        scale = alpha + c * sigma
        return scale, sigma / scale

    def slope(x: Value, t: Coef) -> Value:
        p = predict(x, t)
        return p.eps if c.shared and c.d == 0.0 else combine((1.0, p.eps), (-c, p.x0))

    (scale, u), (scale_s, u_s) = frame(t), frame(s)
    clean = process.sigma(s) == 0.0
    slopes, step = [slope(x, t)], u_s - u
    # rows that step to pure data evaluate their first stage again: with equal slopes the weights b make Euler's step
    reach = where(clean, 0.0, step)
    if reach.shared and reach.d == 0.0:
        return combine((scale_s / scale, x), (scale_s * step, slopes[0]))
    for weights in tableau.a:
        place = sum(weights)
        u_i = u + place * reach
        t_i = s if place == 1.0 else process.time(u_i / (1.0 - c * u_i))
        scale_i = scale_s if place == 1.0 else frame(t_i)[0]
        t_i, scale_i = where(clean, t, t_i), where(clean, scale, scale_i)
        moves = [(scale_i * reach * w, d) for w, d in zip(weights, slopes, strict=True) if w]
        slopes.append(slope(combine((scale_i / scale, x), *moves), t_i))
    return combine((scale_s / scale, x), *((scale_s * step * b, d) for b, d in zip(tableau.b, slopes, strict=True)))


@method(paper="deis")
@dataclass(frozen=True)
class RhoRK(Sampler):
    """rhoRK-DEIS: y = x / alpha with dy / d(rho) = eps, by Heun's, Kutta's or the classical Runge-Kutta method.

    A step costs `order` evaluations, and one where it ends at pure data. See `DEIS` for the multistep variants.

    Args:
        order: 2, 3 or 4.

    Differs from the paper: on processes that end in pure noise, where rho is infinite, the same method solves
    d(x / (alpha + sigma)) / du = eps - x0 over u = sigma / (alpha + sigma).

    Reference: Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator, 2204.13902.
    """

    order: int = 3

    needs = Needs.GAUSSIAN

    @property
    def convergence(self) -> int:  # type: ignore[override]
        return self.order

    def __post_init__(self) -> None:
        if self.order not in TABLEAUX:
            raise BadInput(f"RhoRK(order={self.order}): the order is 2, 3 or 4; 3 costs three evaluations a step")

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value, Any]:
        return advance(predict, x, at.process, at.t, at.s, TABLEAUX[self.order]), memory


@method(paper="edm")
@dataclass(frozen=True)
class Heun(Churned):
    """EDM's sampler: Heun's method in y = x / alpha over rho, after raising the noise from rho to (1 + gamma) rho.

        gamma = min(churn / n, sqrt(2) - 1) while churn_min <= rho <= churn_max, else 0

    Two evaluations a step, one in a step to pure data. On flows it is Heun's method on the velocity.

    Args:
        churn: S_churn, noise added and removed again over the whole run; 0 solves the ODE. 40 is usual.
        churn_min, churn_max: S_tmin, S_tmax, in units of rho = sigma / alpha.
        churn_noise: S_noise, standard deviation of the added noise.

    Reference: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2206.00364.
    """

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        return 2 if self.churn == 0.0 else None

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value, Any]:
        x, t = self.churned(x, at)
        return advance(predict, x, at.process, t, at.s, TABLEAUX[2]), memory
