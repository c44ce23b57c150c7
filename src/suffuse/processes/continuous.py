"""Gaussian processes given by formulas: rectified flow, variance preserving, variance exploding."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.process import Gaussian
from ..core.value import Coef, cos, exp, log, sin, sqrt, where


@dataclass(frozen=True)
class Flow(Gaussian):
    """x_t = (1 - t) x0 + t eps: rectified flow, flow matching with the linear path (SD3, Flux).

    Reference: Liu et al., Flow Straight and Fast, 2209.03003; Lipman et al., Flow Matching, 2210.02747.
    """

    def alpha(self, t: Coef) -> Coef:
        return 1.0 - t

    def sigma(self, t: Coef) -> Coef:
        return t

    def slope(self, t: Coef) -> tuple[Coef, Coef]:
        return Coef(-1.0), Coef(1.0)

    def time(self, rho: Coef) -> Coef:
        return where(rho < math.inf, rho / (1.0 + rho), 1.0)


@dataclass(frozen=True)
class VP(Gaussian):
    """x_t = alpha x0 + sqrt(1 - alpha^2) eps with alpha^2 = exp(-t beta_min - t^2 (beta_max - beta_min) / 2).

    Args:
        beta_min, beta_max: rate of the noise at t = 0 and t = 1.

    Reference: Song et al., Score-Based Generative Modeling through SDEs, 2011.13456.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _integral(self, t: Coef) -> Coef:
        return t * self.beta_min + t * t * (0.5 * (self.beta_max - self.beta_min))

    def alpha(self, t: Coef) -> Coef:
        return exp(-0.5 * self._integral(t))

    def sigma(self, t: Coef) -> Coef:
        alpha = self.alpha(t)
        return sqrt(1.0 - alpha * alpha)

    def time(self, rho: Coef) -> Coef:
        integral = log(1.0 + rho * rho)
        rise = self.beta_max - self.beta_min
        return 2.0 * integral / (sqrt(self.beta_min**2 + 2.0 * rise * integral) + self.beta_min)

    def slope(self, t: Coef) -> tuple[Coef, Coef]:
        rate, alpha, sigma = self.beta_min + t * (self.beta_max - self.beta_min), self.alpha(t), self.sigma(t)
        return -0.5 * rate * alpha, 0.5 * rate * alpha * alpha / sigma


@dataclass(frozen=True)
class Cosine(Gaussian):
    """x_t = cos(pi t / 2) x0 + sin(pi t / 2) eps."""

    def alpha(self, t: Coef) -> Coef:
        return cos(t * (math.pi / 2))

    def sigma(self, t: Coef) -> Coef:
        return sin(t * (math.pi / 2))

    def slope(self, t: Coef) -> tuple[Coef, Coef]:
        return -math.pi / 2 * sin(t * (math.pi / 2)), math.pi / 2 * cos(t * (math.pi / 2))

    def time(self, rho: Coef) -> Coef:
        # atan without a torch counterpart on Coef: sin and cos of the angle are known
        d = rho.d
        return Coef(math.atan(d) if isinstance(d, float) else d.atan()) * (2 / math.pi)


@dataclass(frozen=True)
class VE(Gaussian):
    """x_t = x0 + sigma(t) eps with log sigma linear between sigma_min and sigma_max, and sigma(0) = 0.

    Networks are told log(sigma) / 4.

    Args:
        sigma_min, sigma_max: noise in units of the data.
        sigma_data: standard deviation of the data; networks see x / sqrt(sigma^2 + sigma_data^2).

    Reference: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2206.00364.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    floor = 0.01  # below this t, sigma falls linearly to 0, so that t = 0 is data

    def alpha(self, t: Coef) -> Coef:
        return Coef(1.0) if t.shared else t * 0.0 + 1.0

    def sigma(self, t: Coef) -> Coef:
        u = (t - self.floor) / (1.0 - self.floor)
        curve = exp(math.log(self.sigma_min) + u * math.log(self.sigma_max / self.sigma_min))
        return where(t < self.floor, t * (self.sigma_min / self.floor), curve)

    def time(self, rho: Coef) -> Coef:
        u = (log(rho) - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)
        return where(rho < self.sigma_min, rho * (self.floor / self.sigma_min), self.floor + u * (1.0 - self.floor))

    def timestep(self, t: Coef) -> Coef:
        return log(self.sigma(t)) * 0.25

    def scale(self, t: Coef) -> Coef:
        sigma = self.sigma(t)
        return 1.0 / sqrt(sigma * sigma + self.sigma_data**2)
