"""How the error of each solver falls with the step length, on laws whose probability flow is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from suffuse.core.engine import sample
from suffuse.core.grid import Grid
from suffuse.core.hook import Hook, StepFunction
from suffuse.core.prediction import EPS, FLOW, X0, Kind, V
from suffuse.core.process import Gaussian as Process
from suffuse.core.sampler import Sampler
from suffuse.core.step import Step
from suffuse.core.value import Coef
from suffuse.processes import VE, VP, Cosine, Flow, Table
from suffuse.samplers import DDIM, DEIS, PNDM, DPMSolverPP, Euler, Heun, RhoRK, UniPC
from suffuse.testing.analytic import Gaussian, GaussianMixture

MEANS = torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.1, -1.2]], dtype=torch.float64)
HIGH, LOW = 6.0, 0.15
"""sigma / alpha between which orders are measured."""


def states(n: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def even_in_log_snr(process: Process, n: int) -> Grid:
    rhos = torch.linspace(math.log(HIGH), math.log(LOW), n + 1, dtype=torch.float64).exp()
    return Grid(torch.tensor([process.time(Coef(float(r))).item() for r in rhos], dtype=torch.float64))


def mixture(process: Process, kind: Kind = X0) -> GaussianMixture:
    return GaussianMixture(MEANS, process, std=0.4, kind=kind)


@cache
def truth(process: Process) -> Tensor:
    """Where the flow of the mixture takes `states`."""
    return sample(mixture(process), states(), sampler=RhoRK(4), grid=even_in_log_snr(process, 200)).x


def error(sampler: Sampler, process: Process, n: int) -> float:
    out = sample(mixture(process), states(), sampler=sampler, grid=even_in_log_snr(process, n)).x
    return float((out - truth(process)).pow(2).mean().sqrt())


SOLVERS = [DDIM(), Euler(), Heun(), RhoRK(2), RhoRK(3), RhoRK(4), DPMSolverPP(1), DPMSolverPP(2), DPMSolverPP(3),
           UniPC(1), UniPC(2), UniPC(3), UniPC(2, "bh1"), DEIS(0), DEIS(1), DEIS(2), DEIS(3), DEIS(3, "rhoAB"),
           DEIS(3, "logrhoAB"), DEIS(3, "iPNDM"), PNDM()]  # fmt: skip


@pytest.mark.parametrize("process", [VP(), Flow()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("sampler", SOLVERS, ids=str)
def test_a_run_converges_as_declared(sampler, process):
    n = 24 if sampler.convergence > 2 else 40
    coarse, fine = error(sampler, process, n), error(sampler, process, 2 * n)
    assert math.log2(coarse / fine) > sampler.convergence - 0.25
    assert fine < 0.02


@dataclass(frozen=True)
class ExactStart(Hook):
    """The exact state after each of the first `steps` steps: a multistep method then begins with an exact past."""

    law: Gaussian
    steps: int

    def __call__(self, step: StepFunction, x: Tensor, at: Step) -> Tensor:
        out = step(x, at)
        return self.law.flow(x, at.t, at.s) if at.i < self.steps else out


@pytest.mark.parametrize("process", [VP(), Flow()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "sampler, order",
    [(DPMSolverPP(2), 2), (UniPC(1, lower_order_final=False), 2), (UniPC(2, lower_order_final=False), 3),
     (UniPC(3, lower_order_final=False), 4), (UniPC(3, "bh1", lower_order_final=False), 4), (DEIS(1), 2), (DEIS(2), 3),
     (DEIS(3), 4), (DEIS(3, "rhoAB"), 4), (DEIS(3, "logrhoAB"), 4)],
    ids=str,
)  # fmt: skip
def test_order_once_the_past_is_known(sampler, order, process):
    """On N(mu, s^2), whose flow is known in closed form."""
    law = Gaussian(torch.tensor([0.7, -0.4]), process, std=0.6, kind=X0)
    errors = []
    for n in (24, 48) if order < 4 else (48, 96):
        grid = even_in_log_snr(process, n)
        x = states()
        out = sample(law, x, sampler=sampler, grid=grid, hooks=[ExactStart(law, 4)]).x
        errors.append(float((out - law.flow(x, grid.node(0), grid.node(n))).norm()))
    assert math.log2(errors[0] / errors[1]) > order - 0.25


@pytest.mark.parametrize("process", [VP(), VE(), Cosine(), Flow(), Table()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("sampler", [DDIM(), Heun(), DPMSolverPP(2), UniPC(3), DEIS(3), RhoRK(3)], ids=str)
def test_all_processes_reach_the_known_gaussian(sampler, process):
    law = Gaussian(torch.tensor([0.7, -0.4]), process, std=0.6, kind=X0)
    grid, x = even_in_log_snr(process, 40), states()
    want = law.flow(x, grid.node(0), grid.node(40))
    got = sample(law, x, sampler=sampler, grid=grid).x
    assert float((got - want).norm() / want.norm()) < (0.05 if sampler.convergence == 1 else 2e-3)


@pytest.mark.parametrize("sampler", SOLVERS, ids=str)
def test_all_kinds_of_prediction_agree(sampler):
    for process in (Cosine(), Flow()):
        outs = [
            sample(mixture(process, kind), states(), sampler=sampler, grid=even_in_log_snr(process, 10)).x
            for kind in (X0, EPS, V, FLOW)
        ]
        for out in outs[1:]:
            torch.testing.assert_close(out, outs[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sampler", SOLVERS, ids=str)
def test_processes_agree_on_the_same_noise_levels(sampler):
    """All solvers but those with a polynomial in t see only sigma / alpha; the state is rescaled."""
    if sampler in (DEIS(1), DEIS(2), DEIS(3)) or isinstance(sampler, (Heun, RhoRK)):
        pytest.skip("follows a coordinate of the process")
    ends = []
    for process in (VP(), Flow(), VE(0.01, 100.0)):
        grid = even_in_log_snr(process, 10)
        x = process.alpha(grid.node(0)) * states() * HIGH
        ends.append(sample(mixture(process), x, sampler=sampler, grid=grid).x / process.alpha(grid.node(10)).item())
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-7, atol=1e-7)


def test_runs_from_pure_noise_to_pure_data():
    """Where sigma / alpha is infinite and where it is 0."""
    for kind in (X0, FLOW):
        law = Gaussian(torch.tensor([0.7, -0.4]), Flow(), std=0.6, kind=kind)
        x = states()
        want = law.flow(x, 1.0, 0.0)
        for sampler in SOLVERS:
            got = sample(law, x, sampler=sampler, steps=40).x
            assert float((got - want).norm() / want.norm()) < 0.08, sampler


def test_data_in_one_more_dimension():
    """The mixture's denoiser is the gradient of its own density: E[x0 | x] = (x + sigma^2 score) / alpha."""
    process, x, t = VP(), states().requires_grad_(), 0.4
    alpha, sigma = process.alpha(Coef(t)).item(), process.sigma(Coef(t)).item()
    spread = alpha**2 * 0.16 + sigma**2
    density = torch.logsumexp(-((x[:, None] - alpha * MEANS) ** 2).sum(-1) / (2 * spread), 1)
    (score,) = torch.autograd.grad(density.sum(), x)
    p = mixture(process)(x.detach(), t)
    torch.testing.assert_close(p.score, score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(p.x0, (x.detach() + sigma**2 * score) / alpha, rtol=1e-9, atol=1e-9)
    data = mixture(process).data(4000)
    torch.testing.assert_close(data.mean(0), MEANS.mean(0), atol=0.06, rtol=0)
