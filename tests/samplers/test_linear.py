"""Tables of linear solvers: those of known solvers, and the best one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from suffuse import load_method, save_method
from suffuse.core.engine import Start, sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.grid import Grid
from suffuse.core.plugin import Setting
from suffuse.core.prediction import EPS, X0, V
from suffuse.core.process import Gaussian as Process
from suffuse.core.value import Coef
from suffuse.guidance import CFG
from suffuse.processes import VP, Flow, Table
from suffuse.samplers import DDIM, DDPM, DEIS, OLSS, DPMSolverPP, Heun, LinearSolver, Quadratic, UniPC
from suffuse.samplers.olss import greedy_path, shortest_path
from suffuse.testing.analytic import GaussianMixture

PROCESSES = pytest.mark.parametrize("process", [VP(), Flow(), Table()], ids=lambda p: type(p).__name__)
GRID = Grid(torch.linspace(1.0, 0.02, 8, dtype=torch.float64))


def mixture(process: Process, kind=X0) -> GaussianMixture:
    means = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    return GaussianMixture(means, process, std=0.4, kind=kind)


def states(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@PROCESSES
@pytest.mark.parametrize("sampler", [DDIM(), DEIS(3), DEIS(2, "iPNDM"), DPMSolverPP(2), UniPC(2)], ids=str)
def test_a_known_solver_is_a_table(process, sampler):
    solver = LinearSolver.of(sampler, process, GRID)
    ends = [sample(mixture(process), states(4), sampler=s, grid=GRID).x for s in (solver, sampler)]
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


def test_the_table_of_ddim_is_its_formula():
    """x_s = (alpha_s alpha_t + sigma_s sigma_t) x_t + (sigma_s alpha_t - alpha_s sigma_t) v_t."""
    process, (t, s) = VP(), (0.7, 0.3)
    ((w, v),) = LinearSolver.of(DDIM(), process, Grid(torch.tensor([t, s], dtype=torch.float64))).table
    alpha, sigma = ([f(Coef(u)) for u in (t, s)] for f in (process.alpha, process.sigma))
    assert w == pytest.approx((alpha[1] * alpha[0] + sigma[1] * sigma[0]).item(), abs=1e-12)
    assert v == pytest.approx((sigma[1] * alpha[0] - alpha[1] * sigma[0]).item(), abs=1e-12)


@pytest.mark.parametrize("sampler", [DDPM(), Heun()], ids=str)
def test_other_solvers_are_no_tables(sampler):
    with pytest.raises(BadInput, match="linear in one prediction"):
        LinearSolver.of(sampler, VP(), GRID)


def test_rows_must_fit_the_times():
    with pytest.raises(BadInput, match="row i holds i"):
        LinearSolver(((1.0, 0.0), (1.0, 0.0)), Setting(times=(1.0, 0.5, 0.0)))


@PROCESSES
def test_the_search_is_nearer_than_solvers_without_data(process):
    law = mixture(process)
    solver = OLSS.fit(law, states(24), steps=4)
    end = sample(law, states(64, 1), sampler=DDIM(), steps=100).x

    def error(sampler):
        return (sample(law, states(64, 1), sampler=sampler, steps=4).x - end).square().mean().sqrt()

    assert solver.made_for.times[0] == 1.0 and solver.made_for.times[-1] == 0.0 and len(solver.made_for.times) == 5
    assert error(solver) < 0.7 * min(error(DDIM()), error(DEIS(2)))


@pytest.mark.parametrize("kind", [EPS, V], ids=lambda kind: kind.name)
def test_weights_are_least_squares_on_the_start_and_all_outputs(kind):
    """By normal equations on {x_T, e_0, e_1}, whatever form the table has."""
    law, x = mixture(VP(), kind), states(16)
    solver = OLSS.fit(law, x, steps=2, fine=12)
    grid = Grid(torch.linspace(1, 0, 13, dtype=torch.float64))
    saved = sample(law, x, sampler=DDIM(), grid=grid, save=lambda run: run.state.x).saved
    first, middle, last = (round(12 * (1 - t)) for t in solver.made_for.times)
    outputs = [law(saved[i], grid.node(i)).value for i in (first, middle)]

    def projected(target, *basis):
        columns = torch.stack([b.flatten() for b in basis], 1)
        return columns @ torch.linalg.solve(columns.T @ columns, columns.T @ target.flatten())

    reached = projected(saved[middle], x, outputs[0]).view_as(x)
    ended = projected(saved[last], x, *outputs)

    class Recorded(GaussianMixture):
        """Says again what it said in the fine run."""

        def forward(self, x, t, cond=None):
            i = int(Coef(t).item() < 1.0)
            return self.process.predict(x, Coef(t), outputs[i], kind)

    ends = sample(Recorded(law.means, VP()), x, sampler=solver, save=lambda run: run.state.x).saved
    torch.testing.assert_close(ends[1], reached, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ends[2].flatten(), ended, rtol=1e-8, atol=1e-8)


def test_the_path_has_the_smallest_tolerance():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(40, 9, generator=generator, dtype=torch.float64).cumsum(1)
    outputs = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    path = shortest_path(states, outputs, 3)
    assert path[0] == 0 and path[-1] == 8 and len(path) == 4 and path == sorted(set(path))
    assert greedy_path(states, outputs, 3, 0.0) is None
    assert greedy_path(states, outputs, 3, 1e9) == [0, 6, 7, 8]  # jumps are shortened to leave 3


def test_it_is_kept_and_refused_elsewhere(tmp_path):
    law = mixture(VP())
    guided = {"guidance": CFG(1.0), "setting": Setting(model="a")}
    solver = OLSS.fit(law, states(8), steps=3, fine=20, **guided)
    assert load_method(save_method(solver, tmp_path / "olss.safetensors")) == solver
    sample(law, states(2), sampler=solver, **guided)
    for wrong, where in (
        ({"guidance": None}, "guidance"),
        ({"setting": Setting(model="b")}, "model"),
        ({"grid": GRID}, "times"),
        ({"spacing": Quadratic()}, "times"),
    ):
        with pytest.raises(Refused, match=f"fitted for {where}"):
            sample(law, states(2), sampler=solver, steps=3, **{**guided, **wrong})
    with pytest.raises(Refused, match="fitted for process"):
        sample(mixture(Flow()), states(2), sampler=solver, **guided)
    with pytest.raises(Refused, match="begins at time 1"):
        sample(law, Start.noised(states(2), solver.made_for.times[1]), sampler=solver, **guided)
    with pytest.raises(Refused, match="other times"):
        sample(law, states(2), sampler=solver, stop=0.01, **guided)
    with pytest.raises(BadInput, match="fewer than the 20"):
        OLSS.fit(law, states(2), steps=20, fine=20)
