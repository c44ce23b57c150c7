"""ResShift: restoration as a short chain that shifts the residual between a degraded and a clean picture.

Reference: Yue et al., Efficient Diffusion Model for Image Restoration by Residual Shifting, 2403.07319 (journal), after
ResShift, 2307.12348.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.process import Gaussian
from ..core.registry import method
from ..core.value import Coef, sqrt


@method(paper="resshift")
@dataclass(frozen=True)
class ResShift(Gaussian):
    """q(x_t | x0, y) = N(x0 + eta_t (y - x0), kappa^2 eta_t I) on T fixed times.

    sqrt(eta_t) runs from sqrt(eta_1) = min(m / kappa, m) to 0.99 as
    sqrt(eta_1) (sqrt(eta_T) / sqrt(eta_1))^(((t - 1) / (T - 1))^p).  A run starts from N(y, kappa^2 eta_T) and its
    posterior is  N((eta_{t-1}/eta_t) x_t + (alpha_t/eta_t) x0,  kappa^2 eta_{t-1} alpha_t / eta_t),
    alpha_t = eta_t - eta_{t-1};  that is the engine's general step with this reverse standard deviation, in which y
    cancels. The degraded picture is `cond["source"]`, in the state's space and size; networks get it beside the state,
    which is divided by sqrt(1 + kappa^2 eta_t).

    Trained at its own T and never respaced: `grid` fixes the times t = k / T.

    Args:
        kappa: noise strength; small is faithful, large is realistic.
        p: growth of the shift; small lingers at the noisy end.
        m: noise level at the first time.
        T: number of steps, >= 2. Defaults are the journal version's; the first version had T=15, m=0.04.

    Raises:
        BadInput: numbers out of range, or no "source" in the condition.

    Example:
        >>> denoiser = Network(net, family_of(net), ResShift(), X0)
        >>> Restorer(denoiser, scale=4)(low_resolution)

    Differs from the paper: no clipped log-variance table, since the last step draws nothing.
    """

    kappa: float = 2.0
    p: float = 0.3
    m: float = 0.2
    T: int = 4
    y: Tensor | None = None

    reads = ("source",)

    def __post_init__(self) -> None:
        if self.T < 2 or self.kappa <= 0 or not 0 < self.m < 0.99 or self.p <= 0:
            raise BadInput(f"ResShift(kappa={self.kappa}, p={self.p}, m={self.m}, T={self.T}): give kappa > 0, p > 0, 0 < m < 0.99, T >= 2")

    def given(self, cond: Cond) -> ResShift:
        if "source" not in cond:
            raise BadInput("cond['source'] is missing: ResShift starts from the degraded picture, in the state's space and size")
        return replace(self, y=cond["source"])

    @cached_property
    def _roots(self) -> list[float]:
        """sqrt(eta) at t = 0, 1/T, ..., 1."""
        first = min(self.m / self.kappa, self.m)
        growth = math.log(0.99 / first)
        return [0.0] + [first * math.exp(growth * (k / (self.T - 1)) ** self.p) for k in range(self.T)]

    def root(self, t: Coef) -> Coef:
        """sqrt(eta) at a node t = k / T, linear between nodes."""

        def at(v: float) -> float:
            k = min(int(v * self.T + 1e-9), self.T - 1)
            w = v * self.T - k
            return (1 - w) * self._roots[k] + w * self._roots[k + 1]

        if isinstance(t.d, float):
            return Coef(at(t.d))
        return Coef(t.d.new_tensor([at(v) for v in t.d.flatten().tolist()]).reshape(t.d.shape))

    def eta(self, t: Coef) -> Coef:
        """Share of the residual y - x0 in the mean."""
        root = self.root(t)
        return root * root

    def alpha(self, t: Coef) -> Coef:
        return 1.0 - self.eta(t)

    def sigma(self, t: Coef) -> Coef:
        return self.kappa * self.root(t)

    def offset(self, t: Coef) -> Tensor | None:
        return None if self.y is None else self.eta(t) * self.y

    def end(self, t: Coef) -> Tensor | None:
        return self.y

    def time(self, rho: Coef) -> Coef:
        def at(v: float) -> float:  # rho = kappa r / (1 - r^2), with r the root
            r = (math.sqrt(self.kappa**2 + 4 * v * v) - self.kappa) / (2 * v) if v > 0 else 0.0
            k = max(bisect_left(self._roots, r), 1)
            return 1.0 if k > self.T else (k - 1 + (r - self._roots[k - 1]) / (self._roots[k] - self._roots[k - 1])) / self.T

        if isinstance(rho.d, float):
            return Coef(at(rho.d))
        return Coef(rho.d.new_tensor([at(v) for v in rho.d.flatten().tolist()]).reshape(rho.d.shape))

    def reverse_std(self, t: Coef, s: Coef) -> Coef:
        high, low = self.eta(t), self.eta(s)
        return self.kappa * sqrt(low * (high - low) / high)

    def timestep(self, t: Coef) -> Coef:
        """Index 0 .. T - 1, as the authors' networks are told."""
        return t * self.T - 1.0

    def scale(self, t: Coef) -> Coef:
        return 1.0 / sqrt(1.0 + self.kappa**2 * self.eta(t))

    @property
    def grid(self) -> Sequence[float]:
        return [k / self.T for k in range(self.T, -1, -1)]
