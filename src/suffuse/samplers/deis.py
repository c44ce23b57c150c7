"""DEIS: the linear part of the ODE solved exactly, the noise prediction by a polynomial through past steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput, nearest
from ..core.plugin import Needs, Setting
from ..core.process import Gaussian
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Coef, Value
from .multistep import ZERO, History, blank, blend, known, push, seen_from_noise, where_apart
from .spacing import Quadratic

Rule = Callable[[Gaussian, float, float, Sequence[float]], list[float]]
"""(process, t, s, past times) -> C_1, C_2, ...: the weights of past predictions, integrated over rho from t to s."""

PANELS = 8
POINTS, WEIGHTS = np.polynomial.legendre.leggauss(16)


def _lagrange(variable: Callable[[Gaussian, Coef], Coef]) -> Rule:
    """C_j = integral of L_j d(rho), where L_j is the Lagrange basis in `variable` on t and the past times."""

    def rule(process: Gaussian, t: float, s: float, past: Sequence[float]) -> list[float]:
        # over arsinh(rho), in which schedules are smooth at both of their ends
        start, end = (math.asinh(process.rho(Coef(u)).item()) for u in (t, s))
        edges = np.linspace(start, end, PANELS + 1)
        middle, half = (edges[1:] + edges[:-1])[:, None] / 2, np.diff(edges)[:, None] / 2
        g = (middle + half * POINTS).ravel()
        measure = (half * WEIGHTS).ravel() * np.cosh(g)
        at = variable(process, process.time(Coef(torch.from_numpy(np.sinh(g))))).tensor(len(g)).numpy()
        nodes = [variable(process, Coef(u)).item() for u in (t, *past)]
        finite = [v for v in nodes if math.isfinite(v)]
        basis = {v: np.prod([(at - o) / (v - o) for o in finite if o != v], axis=0) for v in finite}
        return [float(measure @ basis[v]) if v in basis else 0.0 for v in nodes[1:]]

    return rule


ADAMS_BASHFORTH = ((-1 / 2,), (-16 / 12, 5 / 12), (-59 / 24, 37 / 24, -9 / 24))


def _equal_steps(process: Gaussian, t: float, s: float, past: Sequence[float]) -> list[float]:
    """C_j = (rho_s - rho_t) b_j with the weights b_j of equal steps."""
    length = process.rho(Coef(s)).item() - process.rho(Coef(t)).item()
    return [length * b for b in ADAMS_BASHFORTH[len(past) - 1]]


VARIANTS: Mapping[str, Rule] = {
    "tAB": _lagrange(lambda process, t: t),
    "rhoAB": _lagrange(lambda process, t: process.rho(t)),
    "logrhoAB": _lagrange(lambda process, t: -seen_from_noise(process.logsnr(t))),
    "iPNDM": _equal_steps,
}


@method(paper="deis", tags=("saves steps",))
@dataclass(frozen=True)
class DEIS(Sampler):
    """x_s = (alpha_s / alpha_t) x_t + alpha_s sum_{j=0..r} C_j eps_j,   C_j = integral of L_j d(rho) from t to s.

    rho = sigma / alpha, eps_0 is the prediction at t and eps_j those of the r steps before; L_j is their Lagrange basis
    in t (tAB), in rho (rhoAB) or in log rho (logrhoAB, what DEISMultistepScheduler does). iPNDM takes the weights of
    equal steps. `RhoRK` is the variant of several evaluations. The first steps have lower degrees, and r = 0 is DDIM.

    The C_j are computed once a run, in float64, for any grid and any Gaussian process, flows too.

        sample(denoiser, (4, 4, 32, 32), sampler=DEIS(), steps=10)

    Args:
        order: degree r of the polynomial, 0 to 3; under strong guidance few steps are stable with 1 only.
        variant: "tAB", "rhoAB", "logrhoAB" or "iPNDM".

    Differs from the paper: where rho is infinite, as at the start of flows, the step is DDIM's, and rhoAB
    does not use the prediction made there again. The run ends at pure data by default instead of at t_min.

    Reference: Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator, 2204.13902.
    """

    order: int = 3
    variant: str = "tAB"
    table: dict[tuple[float, ...], list[float]] | None = field(default=None, init=False, repr=False, compare=False)

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION
    spacing = Quadratic()

    def __post_init__(self) -> None:
        if self.order not in (0, 1, 2, 3):
            raise BadInput(f"DEIS(order={self.order}): the degree is 0, 1, 2 or 3; 3 suits 10 steps and more")
        if self.variant not in VARIANTS:
            raise BadInput(f"DEIS(variant={self.variant!r}): no such variant; {nearest(self.variant, VARIANTS)}")

    @property
    def convergence(self) -> int:  # type: ignore[override]
        return min(self.order + 1, 2)  # r + 1 once r predictions are known, but the first step is DDIM

    def bind(self, setting: Setting) -> DEIS:
        """The same with an empty table, which this run fills."""
        bound = replace(self)
        object.__setattr__(bound, "table", {})
        return bound

    def init(self, x: Value, at: Step) -> History:
        return blank(x, self.order)

    def step(self, predict: Ask, x: Value, at: Step, memory: History) -> tuple[Value, History]:
        process, p = at.process, predict(x, at.t)
        alpha, sigma = process.alpha(at.s), process.sigma(at.s)

        def rule(k: int) -> Sequence[Coef]:
            change = [alpha * c for c in self._weights(process, at.t, at.s, *(t for t, _ in memory[:k]))]
            return [alpha, sigma - sum(change, ZERO), *change]

        order = where_apart(process.rho(at.t), process.rho(at.s), known(memory, at.t))
        return blend(order, rule, [p.x0, p.eps, *(e for _, e in memory)]), push(memory, at.t, p.eps)

    def _weights(self, process: Gaussian, *times: Coef) -> list[Coef]:
        """C_1, C_2, ... for (t, s, past times)."""
        if all(c.shared for c in times):
            return [Coef(c) for c in self._coefficients(process, tuple(c.item() for c in times))]
        whole = torch.stack(torch.broadcast_tensors(*_aligned(times)))
        distinct, index = whole.flatten(1).unique(dim=1, return_inverse=True)
        weights = torch.tensor([self._coefficients(process, tuple(column)) for column in distinct.T.tolist()]).double()
        return [Coef(w[index].reshape(whole.shape[1:])) for w in weights.T]

    def _coefficients(self, process: Gaussian, times: tuple[float, ...]) -> list[float]:
        t, s, *past = times
        if not past or not _distinct(t, *past):
            return [0.0] * len(past)
        table = {} if self.table is None else self.table
        if times not in table:
            table[times] = VARIANTS[self.variant](process, t, s, past)
        return table[times]


def _distinct(*times: float) -> bool:
    """False for rows that know less than others of their batch, and so use fewer of the past times."""
    return all(math.isfinite(t) for t in times) and len(set(times)) == len(times)


def _aligned(coefs: Sequence[Coef]) -> list[Tensor]:
    """Their tensors with as many axes each, from the left."""
    tensors = [torch.as_tensor(c.d, dtype=torch.float64) for c in coefs]
    ndim = max(v.ndim for v in tensors)
    return [v.reshape(v.shape + (1,) * (ndim - v.ndim)) for v in tensors]
