"""Samplers that draw the process's own posterior: DDIM and DDPM, Euler's methods, ancestral sampling of any data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.errors import BadInput
from ..core.law import Law
from ..core.plugin import Needs
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Value
from .churn import Churned


@method(paper="ddim")
@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s ~ N(alpha_s x0 + sqrt(sigma_s^2 - std^2) eps, std^2),  std = eta reverse_std(t, s).

    eta = 0 is deterministic, eta = 1 the ancestral sampler of DDPM. On any Gaussian process: with the linear flow path
    and eta = 0 it is Euler's method on the velocity.

    Args:
        eta: share of the posterior's noise, 0 to 1.

    Reference: Song et al., Denoising Diffusion Implicit Models, 2010.02502.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise BadInput(f"DDIM(eta={self.eta}): give a share of the posterior's noise, 0 to 1")

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        return 1 if self.eta == 0.0 else None

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        return at.process.posterior(x, predict(x, at.t), at.t, at.s, self.eta), memory


@method(paper="edm")
@dataclass(frozen=True)
class Euler(Churned):
    """y_s = y_t + (rho_s - rho_t) eps  for y = x / alpha, rho = sigma / alpha: the same move as DDIM with eta = 0.

    On flows it is x_s = x_t + (s - t) v. EulerDiscreteScheduler and FlowMatchEulerDiscreteScheduler are this. With
    churn the noise is raised from rho_t to (1 + gamma) rho_t first:

        gamma = min(churn / n, sqrt(2) - 1) while churn_min <= rho <= churn_max, else 0

    Args:
        churn: S_churn, noise added and removed again over the whole run; 0 solves the ODE. 40 is usual.
        churn_min, churn_max: S_tmin, S_tmax, in units of rho = sigma / alpha.
        churn_noise: S_noise, standard deviation of the added noise.

    Reference: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2206.00364.
    """

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    @property
    def convergence(self) -> int | None:  # type: ignore[override]
        return 1 if self.churn == 0.0 else None

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        x, t = self.churned(x, at)
        return at.process.posterior(x, predict(x, t), t, at.s, 0.0), memory


@method(paper="ddpm")
@dataclass(frozen=True)
class DDPM(Sampler):
    """x_s ~ q(x_s | x_t, x0 = prediction), with the posterior's own variance.

    Reference: Ho et al., Denoising Diffusion Probabilistic Models, 2006.11239.
    """

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        return at.process.posterior(x, predict(x, at.t), at.t, at.s, 1.0), memory


@method(paper="edm")
@dataclass(frozen=True)
class EulerAncestral(Sampler):
    """y_s ~ N(y_t + (rho_down - rho_t) eps, rho_up^2)  for y = x / alpha, rho = sigma / alpha.

    With rho_up^2 = rho_s^2 (1 - rho_s^2 / rho_t^2) and rho_down^2 = rho_s^2 - rho_up^2: Euler's method to less noise
    than asked for, and fresh noise for the rest. The same law as DDPM's. EulerAncestralDiscreteScheduler is this.

    Reference: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2206.00364.
    """

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        return at.process.posterior(x, predict(x, at.t), at.t, at.s, 1.0), memory


@method(paper="d3pm")
@dataclass(frozen=True)
class Ancestral(Sampler):
    """x_s ~ sum_c p(x0 = c) q(x_s | x_t, x0 = c): ancestral sampling of any process, discrete ones too.

    Reference: Austin et al., Structured Denoising Diffusion Models in Discrete State-Spaces, 2107.03006.
    """

    needs = Needs.ONE_EVALUATION

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        return at.process.posterior(x, predict(x, at.t), at.t, at.s, 1.0), memory
