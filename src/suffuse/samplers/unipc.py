"""UniPC: a multistep predictor whose next evaluation also corrects the state that it predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import BadInput
from ..core.plugin import Needs
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Coef, Value, expm1, minimum, where
from .multistep import ONE, ZERO, blank, blend, known, push, seen_from_noise, where_apart

HALF = Coef(0.5)


@method(paper="unipc", tags=("saves steps",))
@dataclass(frozen=True)
class UniPC(Sampler):
    """UniP-p and UniC-p in turn, for the data prediction, one evaluation a step.

        x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) m_0 - alpha_s B(h) sum_k rho_k (m_k - m_0) / r_k

    with h = lambda_s - lambda_t, r_k = (lambda_k - lambda_t) / h and sum_k rho_k r_k^(j-1) = b_j. The predictor takes
    past predictions m_k; the corrector repeats the step that led here with the new one as one more point, r = 1.

    Args:
        order: p >= 1 of the predictor; the corrector makes the method of order p + 1. 2 for guided sampling, 3 without.
        variant: "bh1", B(h) = -h, or "bh2", B(h) = e^-h - 1.
        lower_order_final: lower the order in the last steps, to 1 in the last one.
        disable_corrector: steps i after which the corrector is left out.

    Reference: Zhao et al., UniPC, 2302.04867.
    """

    order: int = 2
    variant: str = "bh2"
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION
    convergence = 2  # more while it runs, but it starts, and by default ends, with a step of order 1

    def __post_init__(self) -> None:
        if self.order < 1:
            raise BadInput(f"UniPC(order={self.order}): the order is at least 1; 2 suits guided sampling")
        if self.variant not in ("bh1", "bh2"):
            raise BadInput(f"UniPC(variant={self.variant!r}): there are bh1 and bh2; bh2 suits 10 steps and more")

    def init(self, x: Value, at: Step) -> Any:
        """(noise that belongs to the newest prediction after correction, past predictions of x0)."""
        return torch.zeros_like(x), blank(x, self.order)

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value, Any]:
        process, p = at.process, predict(x, at.t)
        here, there = process.logsnr(at.t), process.logsnr(at.s)
        last_eps, past = memory
        places, values = [place for place, _ in past], [m for _, m in past]
        alpha, sigma = process.alpha(at.s), process.sigma(at.s)
        reach, left = known(past, here), at.n - at.i
        more, fewer = (left + 1, min(self.order, left) - 1) if self.lower_order_final else (self.order, self.order - 1)

        def corrector(k: int) -> Sequence[Coef]:
            if k == 0:
                return [ONE]
            # the step that led here, from places[0], with older predictions and the new one
            *older, new = self._gain(here - places[0], [place - places[0] for place in (*places[1:k], here)])
            snr = process.alpha(at.t) / process.sigma(at.t)
            return [ZERO, ONE, snr * (new - 1.0), snr * (1.0 - sum(older, new)), *(snr * g for g in older)]

        def predictor(k: int) -> Sequence[Coef]:
            gain = self._gain(there - here, [place - here for place in places[:k]])
            return [sigma, alpha - alpha * sum(gain, ZERO), *(alpha * g for g in gain)]

        order = ZERO if at.i - 1 in self.disable_corrector else where(here == there, 0.0, minimum(reach, more))
        eps = blend(order, corrector, [p.eps, last_eps, p.x0, *values])
        x_s = blend(where_apart(here, there, minimum(reach, fewer)), predictor, [eps, p.x0, *values])
        return x_s, (eps, push(past, seen_from_noise(here), p.x0))

    def _gain(self, h: Coef, distances: Sequence[Coef]) -> list[Coef]:
        """-B(h) rho_k / r_k for points at these distances: the weights of m_k - m_0 in units of alpha_s."""
        if not distances:
            return []
        scale, nodes = (expm1(-h) if self.variant == "bh2" else -h), [d / h for d in distances]
        # for one point the paper's bound on rho leaves 1/2 free, which is also exact to the order
        rho = [HALF] if len(nodes) == 1 else vandermonde(nodes, moments(-h, scale, len(nodes)))
        return [-scale * weight / node for weight, node in zip(rho, nodes, strict=True)]


def moments(h: Coef, scale: Coef, n: int) -> list[Coef]:
    """b_j = j! h phi_{j+1}(h) / scale for j = 1 ... n, where phi_1 = (e^h - 1) / h and h phi_{j+1} = phi_j - 1 / j!."""
    phi, out = expm1(h) / h, []
    for j in range(1, n + 1):
        rest = phi - 1.0 / math.factorial(j)
        out.append(math.factorial(j) * rest / scale)
        phi = rest / h
    return out


def vandermonde(nodes: Sequence[Coef], b: Sequence[Coef]) -> list[Coef]:
    """The weights rho with sum_k rho_k nodes_k^j = b_j for j = 0, 1, ... (Bjoerck and Pereyra, 1970)."""
    rho, n = list(b), len(nodes)
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            rho[i] = rho[i] - nodes[k] * rho[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            rho[i] = rho[i] / (nodes[i] - nodes[i - k - 1])
        for i in range(k, n - 1):
            rho[i] = rho[i] - rho[i + 1]
    return rho
