"""Solvers that are a table of numbers: each state is a linear combination of the last one and all predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import EMPTY, Denoiser
from ..core.engine import place_of, sample
from ..core.errors import BadInput, Refused
from ..core.grid import Grid
from ..core.plugin import Needs, Setting
from ..core.prediction import Affine, V
from ..core.process import Gaussian
from ..core.registry import method
from ..core.sampler import Ask, Sampler
from ..core.step import Step
from ..core.value import Coef, Value, combine
from .spacing import Explicit

NEAR = 1e-9
"""Times closer than this are the same."""


@method()
@dataclass(frozen=True)
class LinearSolver(Sampler):
    """x_{i+1} = w_i x_i + sum_{j<=i} w_ij v_j,   v_j = alpha_j eps_j - sigma_j x0_j.

    Every deterministic solver of one evaluation a step is such a table on its grid: `LinearSolver.of` writes down that
    of DDIM, DEIS or DPM-Solver++, `OLSS.fit` finds a better one. The times belong to the table and are the spacing.

    v_j and the state span what eps_j and the state do; unlike eps_j, v_j says something at pure noise, too.

    Args:
        table: for each step i its (w_i, w_i0, ..., w_ii), float64.
        made_for: process and times that it holds for; others are refused.

    Raises:
        Refused: another process or other times, a start in the middle or a step back.

    Example:
        >>> solver = LinearSolver.of(DEIS(2), model.denoiser.process, Quadratic().grid(model.denoiser.process, 10))
        >>> save_method(solver, "deis-10.safetensors")
    """

    table: tuple[tuple[float, ...], ...]
    made_for: Setting

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION
    belongs_to: ClassVar[tuple[str, ...]] = ("process", "times")
    """Fields of `made_for` in which a run must agree with it."""

    def __post_init__(self) -> None:
        n = len(self.made_for.times) - 1
        if [len(row) for row in self.table] != list(range(2, n + 2)):
            raise BadInput(
                f"{type(self).__name__}: rows of {[len(row) for row in self.table]} numbers for {max(n, 0)} steps; "
                "row i holds i + 2, and made_for.times one time more than there are rows"
            )

    @property
    def spacing(self) -> Explicit:  # type: ignore[override]
        """The times of the table."""
        *times, end = self.made_for.times
        return Explicit(times=tuple(times), end=end)

    def bind(self, setting: Setting) -> LinearSolver:
        setting.require(self.made_for, self.belongs_to, type(self).__name__)
        return self

    def init(self, x: Value, at: Step) -> tuple[Value, ...]:
        if at.i != 0:
            raise Refused(
                f"{type(self).__name__}: its table begins at time {self.made_for.times[0]:g} and this run at step "
                f"{at.i}; start at pure noise, or use DDIM()"
            )
        return (torch.zeros_like(x),) * len(self.table)

    def step(self, predict: Ask, x: Value, at: Step, memory: tuple[Value, ...]) -> tuple[Value, tuple[Value, ...]]:
        i, process = at.i, at.process
        for here, there in zip((at.t, at.s), self.made_for.times[i : i + 2], strict=True):
            if bool((torch.as_tensor(here.d) - there).abs().max() > NEAR):
                raise Refused(
                    f"{type(self).__name__}: its step {i} ends at other times than this one; run it whole and once, or "
                    "use DDIM()"
                )
        v = predict(x, at.t).combined(-process.sigma(at.t), process.alpha(at.t))
        memory = (*memory[:i], v, *memory[i + 1 :])
        w, *others = self.table[i]
        return combine((w, x), *zip(others, memory, strict=False)), memory

    @classmethod
    def of(cls, sampler: Sampler, process: Gaussian, grid: Grid) -> LinearSolver:
        """The table of another solver, read off a run on unit vectors.

        Args:
            sampler: deterministic, of one evaluation a step.
            process, grid: where the table is to hold.

        Raises:
            BadInput: the sampler draws noise or asks several times.
        """
        probe, unit = _UnitVectors(process), torch.eye(grid.n + 1, dtype=torch.float64)
        states = probe.states(unit[:1], sampler, grid)
        table = fit_table(states.T, unit[:, 1:], [(0.0, 1.0)] * grid.n)
        made = cls(table, replace(place_of(probe, grid, sampler, None), sampler="", guidance=""))
        away = probe.states(unit[:1], made, grid) - states
        if bool((away.abs().amax(1) > 1e-8 * states.abs().amax(1)).any()):
            raise BadInput(f"sampler={sampler}: not linear in one prediction a step; give DDIM(), DEIS() or the like")
        return made


def fit_table(states: Tensor, outputs: Tensor, forms: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], ...]:
    """Rows of least squares: each state from the fitted one before it and all outputs up to there.

    Args:
        states: (M, n + 1) float64, M equations.
        outputs: (M, n) float64, what the network returned at each state.
        forms: (g, h) of each output, with v = g x + h output.
    """
    table, fitted, directions = [], states[:, 0], []
    for i, (g, h) in enumerate(forms):
        directions.append(g * fitted + h * outputs[:, i])
        basis = torch.column_stack([fitted, *directions])
        weights = least_squares(basis, states[:, i + 1 : i + 2])
        fitted = (basis @ weights)[:, 0]
        table.append(tuple(weights[:, 0].tolist()))
    return tuple(table)


def least_squares(basis: Tensor, targets: Tensor) -> Tensor:
    """(k, m) weights of the k columns of `basis` for each of m targets; the shortest where columns depend."""
    return torch.linalg.lstsq(basis, targets, driver="gelsd").solution


class _UnitVectors(Denoiser):
    """Answers question j with v = the unit vector j + 1, so that states hold their own coefficients."""

    def __init__(self, process: Gaussian):
        super().__init__()
        self.process, self.asked = process, 0

    def forward(self, x: Tensor, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Affine:
        assert isinstance(self.process, Gaussian)
        self.asked += 1
        value = torch.zeros_like(x)
        value[:, self.asked % x.shape[1]] = 1.0
        return self.process.predict(x, Coef(t), value, V)

    def states(self, x: Tensor, sampler: Sampler, grid: Grid) -> Tensor:
        """(n + 1, n + 1) every state of a run."""
        self.asked = 0
        return torch.cat(sample(self, x, sampler=sampler, grid=grid, save=lambda run: run.state.x).saved)
