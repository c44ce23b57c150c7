"""BDIA: the update by hand, its exact inverse, and what gamma does to its error."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.engine import State, sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.grid import Grid
from suffuse.core.prediction import EPS, FLOW
from suffuse.core.value import Coef
from suffuse.processes import VE, VP, Flow
from suffuse.samplers import BDIA, DDIM, DDPM, DPMSolverPP, Heun
from suffuse.testing.analytic import GaussianMixture

ROWS, WIDTH = 16, 8


def mixture(process):
    means = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(0))
    return GaussianMixture(means, process, std=0.2, kind=FLOW if process == Flow() else EPS)


def moved(process, z, t, s, eps):
    """DDIM's step, by hand."""
    t, s = Coef(t), Coef(s)
    x0 = (z - process.sigma(t) * eps) / process.alpha(t).item()
    return process.alpha(s) * x0 + process.sigma(s) * eps


@pytest.mark.parametrize("process", [VP(), Flow()])
def test_the_update_is_that_of_the_paper(process):
    denoiser, gamma, (a, b, c) = mixture(process), 0.7, (0.8, 0.5, 0.3)
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first = moved(process, x, a, b, denoiser(x, a).eps)
    eps = denoiser(first, b).eps
    second = gamma * (x - moved(process, first, b, a, eps)) + moved(process, first, b, c, eps)
    found = sample(denoiser, x, sampler=BDIA(gamma), grid=Grid(torch.tensor([a, b, c])), save=lambda run: run.state.x)
    torch.testing.assert_close(found.saved[1], first)
    torch.testing.assert_close(found.x, second)


@pytest.mark.parametrize("solver", [DDIM(), Heun(), DPMSolverPP()])
def test_without_correction_it_is_the_solver(solver):
    run = dict(steps=6, noise=0)
    denoiser = mixture(VP())
    assert torch.equal(
        sample(denoiser, (ROWS, WIDTH), sampler=BDIA(0.0, solver), **run).x,
        sample(denoiser, (ROWS, WIDTH), sampler=solver, **run).x,
    )


def there_and_back(sampler, process, steps=50):
    """Data inverted in float32 and decoded from the last two states: the largest error."""
    denoiser, times = mixture(process), torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    x0 = denoiser.data(ROWS).float()
    path = sample(denoiser, x0, sampler=sampler.inverse, grid=Grid(times.flip(0)), save=lambda run: run.state.x).saved
    pair = State(path[-2], 1, tuple(range(ROWS)), (((Coef(1.0), path[-1]),), ()))
    return float((sample(denoiser, pair, sampler=sampler, grid=Grid(times)).x - x0).abs().max())


@pytest.mark.parametrize("process", [VP(), Flow(), VE(0.01, 10.0)])
@pytest.mark.parametrize("solver", [DDIM(), Heun()])
def test_two_states_give_the_picture_back(solver, process):
    assert there_and_back(BDIA(1.0, solver), process) < 1e-4
    assert there_and_back(BDIA(0.92, solver), process) < 1e-3


def test_a_small_gamma_cannot_be_undone():
    """Rounding grows as gamma^-n."""
    assert there_and_back(BDIA(0.5), VP()) > 1.0


def test_it_is_nearer_to_the_curve_than_ddim_at_the_same_cost():
    denoiser = mixture(VP())
    x = torch.randn(64, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = sample(denoiser, x, sampler=DPMSolverPP(), steps=400).x
    error = {s: (sample(denoiser, x, sampler=s, steps=20).x - exact).square().mean().sqrt() for s in (DDIM(), BDIA())}
    assert error[BDIA()] < 0.5 * error[DDIM()]


def test_one_evaluation_a_step():
    assert sample(mixture(VP()), (2, WIDTH), sampler=BDIA(), steps=7).nfe.tolist() == [7, 7]


def test_inverses():
    assert BDIA(0.5).inverse == BDIA(2.0)
    assert BDIA(0.5).inverse.inverse == BDIA(0.5)
    with pytest.raises(Refused, match="forgets the state before"):
        _ = BDIA(0.0).inverse
    with pytest.raises(Refused, match="looks back further"):
        _ = BDIA(1.0, DPMSolverPP()).inverse


def test_unusable_arguments():
    with pytest.raises(BadInput, match="give 0 or more"):
        BDIA(-0.1)
    with pytest.raises(BadInput, match="draws noise"):
        BDIA(1.0, DDPM())
