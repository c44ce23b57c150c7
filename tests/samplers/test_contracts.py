"""What every sampler keeps: rows, memory, noise, times and counts."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser, count_evaluation
from suffuse.core.engine import Start, State, sample, trace
from suffuse.core.errors import BadInput, Refused
from suffuse.core.expression import parse, unparse
from suffuse.core.grid import Grid
from suffuse.core.guidance import Guidance
from suffuse.core.law import Law
from suffuse.core.noise import Keyed
from suffuse.core.plugin import Needs
from suffuse.core.predict import Predict
from suffuse.core.prediction import EPS, FLOW, X0, Affine, Kind
from suffuse.core.process import Gaussian as Process
from suffuse.core.sampler import Sampler
from suffuse.core.step import RunContext, Step
from suffuse.core.value import Coef, combine, cos
from suffuse.processes import VP, Absorbing, Flow, Table
from suffuse.samplers import (
    DDIM,
    DDPM,
    DEIS,
    LCM,
    Ancestral,
    DPMSolverPP,
    Euler,
    EulerAncestral,
    Heun,
    RhoRK,
    UniPC,
)
from suffuse.testing.analytic import Gaussian, KnownLaw

SOLVERS = [DDIM(), Euler(), Heun(), RhoRK(3), RhoRK(4), DPMSolverPP(2), DPMSolverPP(3), UniPC(1), UniPC(2), UniPC(3),
           DEIS(0), DEIS(3), DEIS(2, "rhoAB"), DEIS(3, "iPNDM")]  # fmt: skip
NOISY = [DDIM(0.5), DDPM(), EulerAncestral(), Ancestral(), LCM(), DPMSolverPP(2, sde=True), DPMSolverPP(3, sde=True),
         Euler(churn=20.0), Heun(churn=20.0)]  # fmt: skip
ALL = pytest.mark.parametrize("sampler", SOLVERS + NOISY, ids=str)
ODE = pytest.mark.parametrize("sampler", SOLVERS, ids=str)


class Elementwise(Denoiser):
    """A denoiser without coupling, so that every entry may have a time of its own."""

    def __init__(self, process: Process, kind: Kind = X0):
        super().__init__()
        self.process, self.kind = process, kind

    def forward(self, x: Tensor, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Affine:
        count_evaluation()
        value = combine((cos(Coef(t)), torch.tanh(x)), (0.2, x))
        return self.process.predict(x, Coef(t), value, self.kind)


def states(n: int = 5) -> Tensor:
    return torch.randn(n, 3, 4, generator=torch.Generator().manual_seed(0))


@ALL
def test_a_step_of_no_length_is_the_identity(sampler):
    for process in (VP(), Flow(), Table()):
        grid = Grid(torch.tensor([1.0, 0.8, 0.6, 0.6, 0.3], dtype=torch.float64))
        runs = list(trace(Elementwise(process), states(), sampler=sampler, grid=grid))
        torch.testing.assert_close(runs[3].state.x, runs[2].state.x, rtol=1e-6, atol=1e-6)
        first = sample(Elementwise(process), states(), sampler=sampler, grid=Grid(torch.tensor([0.6, 0.6])))
        torch.testing.assert_close(first.x, states(), rtol=1e-6, atol=1e-6)


@ALL
def test_rows_do_not_know_of_each_other(sampler):
    """Any split of a batch, and any of its rows, gives the pictures of the whole batch."""
    denoiser = Elementwise(Table(), EPS)
    whole = sample(denoiser, states(), sampler=sampler, steps=6, noise=7)
    assert whole.nfe.tolist() == [int(whole.nfe[0])] * 5
    for rows in ([0], [3, 1], [2, 3, 4]):
        part = sample(denoiser, states()[rows], sampler=sampler, steps=6, noise=7, samples=rows)
        torch.testing.assert_close(part.x, whole.x[rows], rtol=1e-6, atol=1e-6)
        assert part.nfe.tolist() == whole.nfe[rows].tolist()


@ALL
def test_a_run_can_stop_anywhere_and_go_on(sampler):
    settings = dict(sampler=sampler, steps=7, noise=Keyed(3))
    runs = list(trace(Elementwise(Table(), EPS), states(), **settings))
    for i in (1, 3, 6):
        rest = sample(Elementwise(Table(), EPS), runs[i].state, **settings)
        assert torch.equal(rest.x, runs[-1].state.x)
        some = sample(Elementwise(Table(), EPS), runs[i].state[[1, 4]], **settings)
        torch.testing.assert_close(some.x, runs[-1].state.x[[1, 4]], rtol=1e-6, atol=1e-6)


@ALL
def test_runs_of_different_age_are_joined(sampler):
    """Rows that began at different times have different histories, and go on as they would alone."""
    denoiser, grid = Elementwise(VP()), Grid(torch.linspace(1, 0.05, 9, dtype=torch.float64))
    ages = []
    for k, begin in enumerate((0, 2, 3)):
        t = grid.node(begin).item()
        x = states()[k : k + 1]
        ages.append(list(trace(denoiser, Start.exactly(x, t), sampler=sampler, grid=grid, samples=[k], noise=1)))
    for i in (4, 5):
        now = [next(r.state for r in runs if r.state.i == i) for runs in ages]
        joined = sample(denoiser, State.cat(now), sampler=sampler, grid=grid, noise=1).x
        alone = torch.cat([runs[-1].state.x for runs in ages])
        torch.testing.assert_close(joined, alone, rtol=1e-5, atol=1e-5)


def drive(sampler: Sampler, denoiser: Denoiser, x: Tensor, times: list[Coef], samples: tuple[int, ...]) -> Tensor:
    """The steps of a run over times that a Grid cannot say."""
    run, n, memory = RunContext(Keyed(2)), len(times) - 1, None
    for i in range(n):
        at = Step(i, n, times[i], times[i + 1], Grid(torch.tensor([1.0, 0.0])), denoiser.process, samples, run)
        memory = sampler.init(x, at) if memory is None else memory
        out, memory = sampler.step(Predict(denoiser, at), x, at, memory)
        x = out.sample(at.noise) if isinstance(out, Law) else out
    return x


CLOCKS = torch.tensor(
    [[1.0, 0.9, 0.5], [0.8, 0.9, 0.6], [0.6, 0.7, 0.7], [0.4, 0.5, 0.4], [0.1, 0.5, 0.3], [0.0, 0.2, 0.0]],
    dtype=torch.float64,
)


@ALL
@pytest.mark.parametrize("process", [VP(), Table(), Flow()], ids=lambda p: type(p).__name__)
def test_rows_may_have_times_of_their_own(sampler, process):
    """One stands still, one goes back up for a while, one ends early."""
    x = states(3)
    together = drive(sampler, Elementwise(process), x, [Coef(t) for t in CLOCKS], (0, 1, 2))
    for k in range(3):
        alone = drive(sampler, Elementwise(process), x[k : k + 1], [Coef(t[k]) for t in CLOCKS], (k,))
        torch.testing.assert_close(together[k : k + 1], alone, rtol=2e-5, atol=2e-5)


@ODE
def test_entries_may_have_times_of_their_own(sampler):
    denoiser, x = Elementwise(Flow()), states(2)
    grid = Grid(CLOCKS[:, :, None].expand(-1, 3, 4))
    together = sample(denoiser, x, sampler=sampler, grid=grid).x
    for k in range(3):
        alone = sample(denoiser, x[:, k : k + 1], sampler=sampler, grid=Grid(CLOCKS[:, k])).x
        torch.testing.assert_close(together[:, k : k + 1], alone, rtol=2e-5, atol=2e-5)


@ODE
@pytest.mark.parametrize("process", [VP(), Table(), Flow()], ids=lambda p: type(p).__name__)
def test_inversion_returns_to_the_picture(sampler, process):
    """From data up to noise along the reversed grid, and down again."""
    denoiser = Gaussian(torch.zeros(3, 4), process, std=0.8, kind=X0)
    grid = Grid(torch.linspace(0.9, 0.02, 41, dtype=torch.float64))
    picture = 0.8 * states().double()
    noise = sample(denoiser, picture, sampler=sampler, grid=grid.reversed()).x
    torch.testing.assert_close(noise, denoiser.flow(picture, 0.02, 0.9), rtol=0.08, atol=0.08)
    again = sample(denoiser, noise, sampler=sampler, grid=grid).x
    error = float((again - picture).norm() / picture.norm())
    assert error < (0.12 if sampler.convergence == 1 else 0.02)


def test_inversion_may_begin_at_the_data_itself():
    times = torch.cat([torch.zeros(1), torch.linspace(0.1, 0.95, 40)]).double()
    for sampler in SOLVERS:
        # a prediction of x0 says nothing of the noise at t = 0; one of eps or of the velocity does
        for process, kind in ((Table(), EPS), (Flow(), FLOW)):
            denoiser = Gaussian(torch.zeros(3, 4), process, std=0.8, kind=kind)
            picture = 0.8 * states().double()
            noise = sample(denoiser, picture, sampler=sampler, grid=Grid(times)).x
            torch.testing.assert_close(noise, denoiser.flow(picture, 0.0, 0.95), rtol=0.1, atol=0.1)


@ALL
def test_noise_depends_on_seed_and_sample_alone(sampler):
    denoiser = Elementwise(Table(), EPS)
    first, again, other = (sample(denoiser, (2, 3, 4), sampler=sampler, steps=4, noise=s).x for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@ALL
def test_a_sampler_is_a_value(sampler):
    assert pickle.loads(pickle.dumps(sampler)) == sampler and hash(sampler) == hash(replace(sampler))
    assert parse(repr(sampler), Sampler) == sampler and parse(unparse(sampler), Sampler) == sampler


@pytest.mark.parametrize("sampler", [s for s in SOLVERS + NOISY if not s.many], ids=str)
def test_what_a_step_would_do_can_be_asked(sampler):
    """`at.move` with the network's own prediction is the step itself."""
    moves = []

    class Ahead(Guidance):
        def __call__(self, predict, x, t, cond, at):
            p = predict(x, t, cond)
            moves.append(at.move(p))
            rows = torch.tensor([2, 0])
            torch.testing.assert_close(at[rows].move(p[rows]), moves[-1][rows])
            return p

    runs = list(trace(Elementwise(Table(), EPS), states(), sampler=sampler, steps=5, guidance=Ahead()))
    for move, after in zip(moves, runs[1:], strict=True):
        torch.testing.assert_close(move, after.state.x)


def test_evaluations_are_counted_honestly():
    def cost(sampler: Sampler, **grid) -> int:
        return int(sample(Gaussian(torch.zeros(2), Flow(), kind=X0), (1, 2), sampler=sampler, **grid).nfe[0])

    inside = dict(grid=Grid(torch.linspace(0.9, 0.1, 11, dtype=torch.float64)))
    for sampler, each in ((DDIM(), 1), (DEIS(), 1), (UniPC(3), 1), (Heun(), 2), (RhoRK(3), 3), (RhoRK(4), 4)):
        # a step to pure data costs one evaluation
        assert cost(sampler, **inside) == 10 * each and cost(sampler, steps=10) == 9 * each + 1


def test_wrong_arguments_and_processes():
    for make, wrong, text in (
        (DPMSolverPP, (4,), "order=4"),
        (UniPC, (0,), "order=0"),
        (UniPC, (2, "bh3"), "bh3"),
        (RhoRK, (5,), "order=5"),
        (DEIS, (4,), "order=4"),
        (DEIS, (2, "tab"), "did you mean tAB"),
    ):
        with pytest.raises(BadInput, match=text):
            make(*wrong)
    law = KnownLaw(torch.tensor([[0, 1], [1, 0]]), Absorbing(3))
    for sampler in SOLVERS + NOISY:
        if Needs.GAUSSIAN in sampler.needs:
            with pytest.raises(Refused, match="categorical"):
                sample(law, (1, 2), sampler=sampler, steps=2)


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_ddim_takes_a_share(eta):
    with pytest.raises(BadInput, match="eta="):
        DDIM(eta)
