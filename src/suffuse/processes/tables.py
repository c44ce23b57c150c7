"""Variance-preserving processes given by a table of betas: DDPM, Stable Diffusion, PixArt, DiT."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput, nearest
from ..core.law import Law, Normal
from ..core.process import Gaussian, remembered
from ..core.value import Coef, Value, exp, sqrt, where

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


@dataclass(frozen=True)
class Table(Gaussian):
    """x_t = sqrt(abar_k) x0 + sqrt(1 - abar_k) eps on N training timesteps; timestep k stands at t = (k + 1) / N.

    Between timesteps log(sigma / alpha) is linear in t, as in k-diffusion; below the first one sigma / alpha itself is,
    down to 0 at t = 0. At the timesteps the table is exactly the one that checkpoints were trained with (float32
    products, as diffusers computes them).

    Args:
        schedule: "linear", "scaled_linear" (Stable Diffusion), "squaredcos_cap_v2" (improved DDPM) or "sigmoid".
        beta_start, beta_end: ends of the betas.
        N: training timesteps.
        betas: explicit betas instead of a schedule.
        zero_snr: rescale so that the last timestep is pure noise (Lin et al., 2305.08891).

    Reference: Ho et al., Denoising Diffusion Probabilistic Models, 2006.11239.
    """

    schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    N: int = 1000
    betas: tuple[float, ...] | None = None
    zero_snr: bool = False

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """(N,) abar, float32."""
        if self.betas is not None:
            betas = torch.tensor(self.betas, dtype=torch.float32)
        elif self.schedule == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, self.N, dtype=torch.float32)
        elif self.schedule == "scaled_linear":
            betas = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.N, dtype=torch.float32) ** 2
        elif self.schedule == "squaredcos_cap_v2":

            def bar(u: float) -> float:
                return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

            betas = torch.tensor(
                [min(1 - bar((k + 1) / self.N) / bar(k / self.N), 0.999) for k in range(self.N)], dtype=torch.float32
            )
        elif self.schedule == "sigmoid":
            betas = torch.sigmoid(torch.linspace(-6, 6, self.N)) * (self.beta_end - self.beta_start) + self.beta_start
        else:
            raise BadInput(f"schedule={self.schedule!r}: no such table of betas; {nearest(self.schedule, SCHEDULES)}")
        abar = torch.cumprod(1.0 - betas, 0)
        if self.zero_snr:
            root = abar.sqrt()
            first, last = root[0].clone(), root[-1].clone()
            abar = ((root - last) * (first / (first - last))) ** 2
        return abar

    @cached_property
    def _logs(self) -> np.ndarray:
        """log(sigma / alpha) at the timesteps, float64."""
        abar = self.alphas_cumprod.double().numpy()
        with np.errstate(divide="ignore"):
            return 0.5 * (np.log1p(-abar) - np.log(abar))

    @cached_property
    def _list(self) -> list[float]:
        return self._logs.tolist()

    def log_rho(self, t: Coef) -> Coef:
        """log(sigma / alpha) at t."""
        if isinstance(t.d, float):
            return Coef(self._log_rho(t.d))
        table = torch.from_numpy(self._logs).to(t.d.device)
        k = t.d * self.N - 1.0
        low = k.floor().clamp(0, self.N - 2).long()
        w = k - low
        w = torch.where((w - w.round()).abs() < 1e-9, w.round(), w)
        mixed = (1 - w) * table[low] + w * table[low + 1]
        inside = torch.where(w == 0, table[low], torch.where(w == 1, table[low + 1], mixed))
        return Coef(torch.where(k <= 0, table[0] + torch.log((t.d * self.N).clamp(min=0)), inside))

    def _log_rho(self, t: float) -> float:
        k = t * self.N - 1.0
        if k <= 0.0:
            return self._list[0] + (math.log(t * self.N) if t > 0.0 else -math.inf)
        low = min(int(k), self.N - 2)
        w = k - low
        if abs(w - round(w)) < 1e-9:  # at a timestep: no arithmetic with an infinite neighbour
            return self._list[low + round(w)]
        return (1 - w) * self._list[low] + w * self._list[low + 1]

    @remembered
    def alpha(self, t: Coef) -> Coef:
        return _root_share(self.log_rho(t))

    @remembered
    def sigma(self, t: Coef) -> Coef:
        return _root_share(-self.log_rho(t))

    def rho(self, t: Coef) -> Coef:
        return exp(self.log_rho(t))

    def logsnr(self, t: Coef) -> Coef:
        return -self.log_rho(t)

    def time(self, rho: Coef) -> Coef:
        if isinstance(rho.d, float):
            return Coef(self._time(rho.d))
        return Coef(rho.d.new_tensor([self._time(v) for v in rho.d.flatten().tolist()]).reshape(rho.d.shape))

    def _time(self, rho: float) -> float:
        if rho <= 0.0:
            return 0.0
        v, table = math.log(rho), self._list
        if v <= table[0]:
            return math.exp(v - table[0]) / self.N
        if v >= table[-1]:
            return 1.0
        k = bisect_left(table, v)
        return (k + (v - table[k - 1]) / (table[k] - table[k - 1])) / self.N

    @remembered
    def timestep(self, t: Coef) -> Coef:
        k = self.N * t - 1.0
        return where(k > 0.0, k, 0.0)

    def even(self, n: int) -> Tensor:
        """Every N / n-th timestep from the last one down, and the data: times at which networks were trained."""
        if n > self.N:
            raise BadInput(f"steps={n}: {type(self).__name__} has {self.N} timesteps; use fewer")
        k = np.arange(self.N, 0, -self.N / n)[:n].round().tolist()
        return torch.tensor([*k, 0.0], dtype=torch.float64) / self.N

    def prior(self, like: Value) -> Law:
        """N(0, I), also where the last timestep keeps a trace of data: what released samplers start from."""
        return Normal(torch.zeros_like(like), Coef(1.0))


def _root_share(v: Coef) -> Coef:
    """1 / sqrt(1 + e^2v), by a short way where it is one number."""
    if isinstance(v.d, float):
        return Coef(1.0 / math.sqrt(1.0 + (math.exp(2.0 * v.d) if v.d < 354.0 else math.inf)))
    return 1.0 / sqrt(1.0 + exp(2.0 * v))
