"""Optimal Linear Subspace Search: the best table of a linear solver in a few steps, learned from fine runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.denoiser import EMPTY, Denoiser
from ..core.engine import place_of
from ..core.errors import BadInput
from ..core.grid import Grid
from ..core.guidance import Guidance
from ..core.plugin import Setting
from ..core.prediction import Affine
from ..core.process import Gaussian
from ..core.recording import Trajectory, record
from ..core.registry import method
from ..core.value import Coef, flat
from .ancestral import DDIM
from .linear import LinearSolver, fit_table, least_squares

BISECTIONS = 30


@method(paper="olss", tags=("saves steps",))
@dataclass(frozen=True)
class OLSS(LinearSolver):
    """x_{i+1} = w_i x_T + sum_{j<=i} w_ij e_j  with the w and the times that come nearest to a run of many steps.

    `OLSS.fit` records a fine DDIM run of many samples. Times: with a tolerance D, jump from each time to the furthest
    one whose state is fitted by the present state and all e so far with a mean square error of at most D; D is bisected
    to the smallest with which n jumps reach the end. Weights: least squares in float64 over all samples at once, of
    each state on x_T and all e up to there.

    e_j is the guided output of the network, in its own form: noise as in the paper, v or velocity. The table is kept in
    the form of `LinearSolver`, in which the fitted x_i stands for x_T and v_j for e_j; they span the same.

    Args:
        table: for each step i its (w_i, w_i0, ..., w_ii), float64.
        made_for: model, process, guidance and times that it was fitted for; others are refused.

    Raises:
        Refused: another model, process, guidance scale or other times.

    Example:
        >>> solver = OLSS.fit(model.denoiser, (32, 4, 16, 16), cond=model.condition(prompts), steps=5,
        ...                   guidance=CFG(3.0), setting=model.setting())
        >>> model.generate("a red circle", sampler=solver, guidance=3.0)

    Reference: Duan et al., Optimal Linear Subspace Search, 2305.14677.

    Differs from the paper: the residuals of all later states are known at once, so the furthest one within D is taken
    without a search among them. Where a smaller D would need fewer jumps than n, the jump is shortened to leave n.
    """

    belongs_to = ("model", "process", "guidance", "times")

    @classmethod
    def fit(
        cls,
        denoiser: Denoiser,
        x: Any,
        *,
        steps: int,
        guidance: Guidance | None = None,
        fine: int = 100,
        setting: Setting | None = None,
        **run: Any,
    ) -> OLSS:
        """Record runs of DDIM and find the times and weights of few steps.

        Args:
            denoiser, x, run: as for `sample`; a few dozen samples with their conditions, and the spacing of the fine
                run, whose times are chosen from.
            steps: n of the solver, at least 1 and fewer than `fine`.
            guidance: with which it will be used; part of what it is made for.
            fine: steps of the recorded runs, 100 to 1000.
            setting: of the loaded model, so that other models are refused.

        Raises:
            BadInput: steps out of range.
        """
        if not 1 <= steps < fine:
            raise BadInput(
                f"steps={steps}: choose at least 1 and fewer than the {fine} recorded ones; 5 to 10 are usual"
            )
        recorded = record(denoiser, x, sampler=DDIM(), steps=fine, guidance=guidance, setting=setting, **run)
        process = denoiser.process.given(denoiser.prepare(run.get("cond", EMPTY)))
        assert isinstance(process, Gaussian)
        return cls.of_record(
            recorded, process, steps, place_of(denoiser, Grid(torch.tensor(recorded.times)), DDIM(), guidance, setting)
        )

    @classmethod
    def of_record(cls, recorded: Trajectory, process: Gaussian, steps: int, setting: Setting) -> OLSS:
        """The same from a run that was recorded already, by whatever solver: one run serves every number of steps.

        Args:
            recorded: a fine run of one evaluation a step.
            process: on which it ran.
            steps: n of the solver, fewer than recorded.
            setting: where the fine run took place.
        """
        states, outputs = compressed(recorded, process)
        path = shortest_path(states, outputs, steps)
        times = tuple(round(recorded.times[i], 10) for i in path)
        forms = [form_of(recorded.predictions[i]) for i in path[:-1]]
        return cls(fit_table(states[:, path], outputs[:, path[:-1]], forms), replace(setting, sampler="", times=times))


def form_of(p: Affine) -> tuple[float, float]:
    """(g, h) with v = g x + h e, where e is what the network returned."""
    kx, ke, _ = p.row
    det = p.a * ke - p.s * kx
    return (-(p.s * ke + p.a * kx) / det).item(), ((p.a * p.a + p.s * p.s) / det).item()


def compressed(recorded: Trajectory, process: Gaussian) -> tuple[Tensor, Tensor]:
    """States (q, m + 1) and outputs (q, m) with the least-squares problems of the recorded ones.

    They are R of a QR decomposition of all recorded numbers, one column for each state and output, and scaled so that
    squared lengths are mean squares over the record. R is built sample by sample.
    """
    offsets = [process.offset(Coef(t)) for t in recorded.times]
    states = [flat(x if b is None else x - b) for x, b in zip(recorded.states, offsets, strict=True)]
    outputs = [flat(p.combined(*p.row[:2])) for p in recorded.predictions]
    r = torch.zeros(0, len(states) + len(outputs), dtype=torch.float64)
    for row in range(len(recorded.samples)):
        block = torch.stack([v[row].double().cpu() for v in (*states, *outputs)], 1)
        r = torch.linalg.qr(torch.cat([r, block]), mode="r").R
    r = r / (len(recorded.samples) * states[0].shape[1]) ** 0.5
    return r[:, : len(states)], r[:, len(states) :]


def shortest_path(states: Tensor, outputs: Tensor, n: int) -> list[int]:
    """n + 1 indices from the first state to the last, with the smallest tolerance that a greedy path can keep."""
    low, high = 0.0, float(states.square().sum(0).max())
    best = greedy_path(states, outputs, n, high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        path = greedy_path(states, outputs, n, middle)
        if path is None:
            low = middle
        else:
            best, high = path, middle
    assert best is not None  # with the first tolerance every jump is allowed
    return best


def greedy_path(states: Tensor, outputs: Tensor, n: int, tolerance: float) -> list[int] | None:
    """Jumps to the furthest state within the tolerance; None where n of them do not reach the end."""
    path, end = [0], states.shape[1] - 1
    while len(path) <= n:
        i, last = path[-1], end - (n - len(path))
        basis = torch.column_stack([states[:, i], outputs[:, path]])
        targets = states[:, i + 1 : last + 1]
        errors = (basis @ least_squares(basis, targets) - targets).square().sum(0)
        within: Sequence[int] = (errors <= tolerance).nonzero()[:, 0].tolist()
        path.append(i + 1 + max(within, default=0))
    return path if path[-1] == end else None
