"""Consistency sampling: jump to the clean state, then noise it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.law import Law, Normal
from ..core.plugin import Needs
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Value, combine, sqrt, where
from .spacing import Skipping


@method(paper="lcm")
@dataclass(frozen=True)
class LCM(Sampler):
    """x_s ~ N(alpha_s f(x_t), sigma_s^2)  with the consistency function  f = c_skip x_t + c_out x0.

    c_skip = d^2 / (k^2 + d^2) and c_out = k / sqrt(k^2 + d^2) at k = scale * timestep make f the identity at t = 0. For
    networks that were distilled to it; a guidance scale that they are told is an entry of the condition.

    Args:
        d: standard deviation of the data, sigma_data.
        scale: factor of the timestep, timestep_scaling.

    Reference: Luo et al., Latent Consistency Models, 2310.04378.
    """

    d: float = 0.5
    scale: float = 10.0

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION | Needs.CONSISTENCY
    spacing = Skipping()

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        process, p = at.process, predict(x, at.t)
        k, still = process.timestep(at.t) * self.scale, at.s == at.t
        skip, out = self.d**2 / (k * k + self.d**2), k / sqrt(k * k + self.d**2)
        alpha = process.alpha(at.s)
        mean = combine((where(still, 1.0, alpha * skip), x), (where(still, 0.0, alpha * out), p.x0))
        return Normal(mean, where(still, 0.0, process.sigma(at.s))), memory
