"""EDM's churn: noise that is added before a step and removed by it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.plugin import Needs
from ..core.sampler import Sampler
from ..core.step import Step
from ..core.value import Coef, Value, combine, minimum, sqrt, where


@dataclass(frozen=True)
class Churned(Sampler):
    """A solver whose steps begin with more noise: from rho to (1 + gamma) rho.

        gamma = min(churn / n, sqrt(2) - 1) while churn_min <= rho <= churn_max, else 0

    Args:
        churn: S_churn, noise added and removed again over the whole run; 0 solves the ODE. 40 is usual.
        churn_min, churn_max: S_tmin, S_tmax, in units of rho = sigma / alpha.
        churn_noise: S_noise, standard deviation of the added noise.

    Reference: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2206.00364.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    needs = Needs.GAUSSIAN

    def churned(self, x: Value, at: Step) -> tuple[Value, Coef]:
        """The state with more noise, and the time at which it stands."""
        if self.churn == 0.0:
            return x, at.t
        process, rho, most = at.process, at.process.rho(at.t), at.process.rho(Coef(1.0))
        within = where(rho >= self.churn_min, where(rho <= self.churn_max, where(rho < most, 1.0, 0.0), 0.0), 0.0)
        gamma = where(at.s == at.t, 0.0, within * min(self.churn / at.n, math.sqrt(2) - 1))
        raised = minimum(rho * (1.0 + gamma), most)
        t = where(gamma > 0.0, process.time(raised), at.t)
        alpha, kept = process.alpha(t), where(gamma > 0.0, process.alpha(t) / process.alpha(at.t), 1.0)
        added = where(gamma > 0.0, self.churn_noise * alpha * sqrt(raised * raised - rho * rho), 0.0)
        return combine((kept, x), (added, at.noise(x, "churn"))), t
