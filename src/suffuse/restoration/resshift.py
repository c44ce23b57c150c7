"""ResShift: restoration as a short chain that shifts the residual between a degraded and a clean picture.

Reference: Yue et al., Efficient Diffusion Model for Image Restoration by Residual Shifting, 2403.07319 (journal), after
ResShift, 2307.12348.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.law import Law, Normal
from ..core.process import Gaussian
from ..core.registry import method
from ..core.value import Coef, Value, minimum, sqrt


@method(paper="resshift")
@dataclass(frozen=True)
class ResShift(Gaussian):
    """q(x_t | x0, y) = N(x0 + eta_t (y - x0), kappa^2 eta_t I) on T fixed times.

    sqrt(eta_t) runs from sqrt(eta_1) = min(m / kappa, m) to 0.99 as

        sqrt(eta_t) = sqrt(eta_1) (sqrt(eta_T) / sqrt(eta_1))^(((t - 1) / (T - 1))^p).

    A run starts from N(y, kappa^2 eta_T I), and its posterior is

        q(x_{t-1} | x_t, x0) = N((eta_{t-1} / eta_t) x_t + (alpha_t / eta_t) x0, kappa^2 eta_{t-1} alpha_t / eta_t I)

    with alpha_t = eta_t - eta_{t-1}; that is the engine's general step with this deviation, in which y cancels. The
    degraded picture y is `cond["source"]`, in the state's space and size. Networks get it beside the state, which is
    divided by sqrt(1 + kappa^2 eta_t), and are told 0 .. T - 1. They are trained at these T times and run at them
    alone: `grid` fixes them, and a spacing is refused.

    p and T are the dial between fidelity and realism: a large p and few steps keep to what is sure, a small p and many
    steps invent more detail. kappa has a best middle: too much noise and too little both smooth the picture.

    Args:
        kappa: strength of the noise, > 0, in the units of the state.
        p: growth of the shift, > 0; small values spend more of the steps at high noise.
        m: noise level at the first time, 0 to 0.99.
        T: number of steps, >= 2. Defaults are the journal version's; the first version had T=15, m=0.04.

    Raises:
        BadInput: numbers out of range, or no "source" in the condition.

    Example:
        >>> from diffusers import UNet2DModel
        >>> from suffuse.backbones import family_of
        >>> from suffuse.core.denoiser import Network
        >>> from suffuse.core.prediction import X0
        >>> from suffuse.restoration import ResShift
        >>> net = UNet2DModel(64, in_channels=6, out_channels=3, block_out_channels=(32, 64),
        ...                   down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
        >>> denoiser = Network(net, family_of(net), ResShift(), X0)

    Differs from the paper: the ends of eta are those of its released code; the first version's text has
    eta_1 = min((0.04 / kappa)^2, 0.001) and eta_T = 0.999. No table of clipped log-variances, whose first entry only
    the last step would read, and that one draws nothing. The network sees y as it enters the process, where the paper's
    latent models see it in pixels.
    """

    kappa: float = 2.0
    p: float = 0.3
    m: float = 0.2
    T: int = 4

    reads = ("source",)

    def __post_init__(self) -> None:
        if self.T < 2 or self.kappa <= 0 or not 0 < self.m < 0.99 or self.p <= 0:
            given = f"kappa={self.kappa}, p={self.p}, m={self.m}, T={self.T}"
            raise BadInput(f"ResShift({given}): give kappa > 0, p > 0, 0 < m < 0.99, T >= 2")

    def given(self, cond: Cond) -> ResShift:
        if "source" not in cond:
            raise BadInput(
                "cond['source'] is missing: ResShift needs the degraded picture, in the state's space and size"
            )
        return _Between(**asdict(self), y=cond["source"])

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

        return _each(at, t)

    def eta(self, t: Coef) -> Coef:
        """Share of the residual y - x0 in the mean."""
        root = self.root(t)
        return root * root

    def alpha(self, t: Coef) -> Coef:
        return 1.0 - self.eta(t)

    def sigma(self, t: Coef) -> Coef:
        return self.kappa * self.root(t)

    def time(self, rho: Coef) -> Coef:
        def at(v: float) -> float:
            # rho = kappa r / (1 - r^2), with r the root
            r = (math.sqrt(self.kappa**2 + 4 * v * v) - self.kappa) / (2 * v) if v > 0 else 0.0
            k = max(bisect_left(self._roots, r), 1)
            if k > self.T:
                return 1.0
            low, high = self._roots[k - 1 : k + 1]
            return (k - 1 + (r - low) / (high - low)) / self.T

        return _each(at, rho)

    def reverse_std(self, t: Coef, s: Coef) -> Coef:
        high, low = self.eta(t), self.eta(s)
        return self.kappa * sqrt(abs(high - low) * minimum(low / high, 1.0))

    def timestep(self, t: Coef) -> Coef:
        return t * self.T - 1.0

    def scale(self, t: Coef) -> Coef:
        return 1.0 / sqrt(1.0 + self.kappa**2 * self.eta(t))

    @property
    def grid(self) -> Sequence[float]:
        return [k / self.T for k in range(self.T, -1, -1)]


@dataclass(frozen=True, eq=False)
class _Between(ResShift):
    """The process between clean pictures and these degraded ones."""

    y: Value = field(kw_only=True, repr=False)

    def offset(self, t: Coef) -> Value:
        return self.eta(t) * self.y

    def end(self, t: Coef) -> Value:
        return self.y

    def prior(self, like: Value) -> Law:
        return Normal(self.y.expand_as(like), self.sigma(Coef(1.0)))


def _each(function: Callable[[float], float], c: Coef) -> Coef:
    """A function of one number on every number of a coefficient."""
    if isinstance(c.d, Tensor):
        return Coef(c.d.new_tensor([function(v) for v in c.d.flatten().tolist()]).reshape(c.d.shape))
    return Coef(function(c.d))
