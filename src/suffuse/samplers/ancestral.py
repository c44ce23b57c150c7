"""Samplers that draw the process's own posterior: DDIM, DDPM, ancestral sampling of discrete data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.law import Law
from ..core.plugin import Needs
from ..core.registry import method
from ..core.step import Ask, Sampler, Step
from ..core.value import Value


@method()
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

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        return at.process.posterior(x, predict(x, at.t), at.t, at.s, self.eta), memory


@method()
@dataclass(frozen=True)
class DDPM(Sampler):
    """x_s ~ q(x_s | x_t, x0 = prediction), with the posterior's own variance.

    Reference: Ho et al., Denoising Diffusion Probabilistic Models, 2006.11239.
    """

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        return at.process.posterior(x, predict(x, at.t), at.t, at.s, 1.0), memory


@method()
@dataclass(frozen=True)
class Ancestral(Sampler):
    """x_s ~ sum_c p(x0 = c) q(x_s | x_t, x0 = c): ancestral sampling of any process, discrete ones too.

    Reference: Austin et al., Structured Denoising Diffusion Models in Discrete State-Spaces, 2107.03006.
    """

    needs = Needs.ONE_EVALUATION

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        return at.process.posterior(x, predict(x, at.t), at.t, at.s, 1.0), memory
