"""Processes whose steps are drawn with a variance that the network predicts: improved DDPM, ADM."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.law import Law, Normal
from ..core.prediction import Affine, Kind
from ..core.value import Coef, Value, exp, log, put, where
from .tables import Table

SMALLEST = 1e-30
"""What stands for a variance of 0 where its logarithm is taken."""


@dataclass(frozen=True)
class Ranged(Affine):
    """A prediction that also says how much noise a step should have.

    Attributes:
        v: (B, ...), where each entry's log-variance lies between that of q(x_s | x_t, x0) at 0 and that of
            q(x_t | x_s) at 1; networks are not bound to stay between.
    """

    v: Value | None = None

    def __getitem__(self, rows: Any) -> Ranged:
        return _ranged(super().__getitem__(rows), None if self.v is None else self.v[rows])

    def put(self, rows: Any, other: Affine) -> Ranged:
        v = put(self.v, rows, other.v) if isinstance(other, Ranged) else self.v
        return _ranged(super().put(rows, other), v)


def _ranged(p: Affine, v: Value | None) -> Ranged:
    return Ranged(**{f.name: getattr(p, f.name) for f in fields(Affine)}, v=v)


@dataclass(frozen=True)
class LearnedVariance(Table):
    """A `Table` for networks that return 2 C channels: a prediction, and v for the variance of an ancestral step.

    Sigma = exp(v log beta + (1 - v) log beta~)  with beta = 1 - abar_t / abar_s, beta~ = beta (1 - abar_s)/(1 - abar_t)

    for any pair of times, so a run in fewer steps than in training respaces it by itself. Samplers that draw the whole
    posterior (DDPM, DDIM(eta=1), EulerAncestral) use Sigma; all others see the prediction alone. A step to t = 0 draws
    no noise.

    Reference: Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2102.09672.
    """

    def predict(self, x: Value, t: Coef, value: Value, kind: Kind) -> Ranged:
        channels = x.shape[1]
        if value.shape[1] != 2 * channels:
            raise BadInput(
                f"value has {value.shape[1]} channels for a state of {channels}: a network with a learned variance "
                "returns twice as many; use Table for others"
            )
        return _ranged(super().predict(x, t, value[:, :channels], kind), (value[:, channels:] + 1.0) / 2.0)

    def posterior(self, x: Value, p: Affine, t: Coef, s: Coef, eta: float = 1.0) -> Law:
        law = super().posterior(x, p, t, s, eta)
        if eta != 1.0 or not isinstance(p, Ranged) or not isinstance(law, Normal):
            return law
        learned = where(s < t, 1.0, 0.0) * where(law.std > 0.0, 1.0, 0.0)
        return Normal(law.mean, learned * self.std(p, t, s) + (1.0 - learned) * law.std)

    def std(self, p: Ranged, t: Coef, s: Coef) -> Coef:
        """sqrt(Sigma) of a step from t down to s, entry by entry; at s = 0, where beta~ is 0, with the next step's."""
        assert isinstance(p.v, Tensor)
        low, high = self.bounds(t, s)
        v = Coef(p.v.double())
        return exp(0.5 * (v * high + (1.0 - v) * low))

    def bounds(self, t: Coef, s: Coef) -> tuple[Coef, Coef]:
        """(log beta~, log beta) of a step from t down to s."""
        up = t + (t - s)
        up = where(up < 1.0, up, 1.0)
        inner = where(s > 0.0, self.reverse_std(t, s), self.reverse_std(up, t))
        return _log_variance(inner), _log_variance(self.reverse_std(s, t))


def _log_variance(std: Coef) -> Coef:
    variance = std * std
    return log(where(variance > SMALLEST, variance, SMALLEST))


def frozen_mean(p: Ranged) -> Ranged:
    """The same prediction with a gradient in v alone."""
    assert isinstance(p.value, torch.Tensor)
    return _ranged(p.with_(x0=p.x0.detach()), p.v)
