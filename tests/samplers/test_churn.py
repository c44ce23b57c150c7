"""EDM's churn, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from suffuse.core.engine import sample
from suffuse.core.grid import Grid
from suffuse.core.noise import Keyed, Shifted
from suffuse.core.prediction import X0
from suffuse.core.value import Coef
from suffuse.processes import VE, VP
from suffuse.samplers import DDIM, Euler, Heun
from suffuse.testing.analytic import Gaussian

MEAN, Z = torch.tensor([0.7, -0.4]), torch.full((3, 2), 0.5, dtype=torch.float64)
X = torch.tensor([[1.0, 2.0], [-0.5, 0.1], [0.3, -2.0]], dtype=torch.float64)


def one_step(sampler, process, t, s):
    run = {"grid": Grid(torch.tensor([t, s], dtype=torch.float64)), "noise": Shifted(Keyed(0), lambda v, key: Z)}
    return sample(Gaussian(MEAN, process, kind=X0), X, sampler=sampler, **run).x


@pytest.mark.parametrize("process", [VP(), VE()], ids=lambda p: type(p).__name__)
def test_a_step_of_euler_with_churn(process):
    law, t, s = Gaussian(MEAN, process, kind=X0), Coef(0.6), Coef(0.4)
    rho, after = process.rho(t).item(), process.rho(s).item()
    gamma = 0.3  # churn / n with n = 1
    y = X / process.alpha(t).item() + 1.01 * math.sqrt(((1 + gamma) * rho) ** 2 - rho**2) * Z
    raised = process.time(Coef((1 + gamma) * rho))
    d = law(process.alpha(raised).item() * y, raised).eps
    expected = process.alpha(s).item() * (y + (after - (1 + gamma) * rho) * d)
    found = one_step(Euler(churn=0.3, churn_noise=1.01), process, 0.6, 0.4)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_gamma_is_limited_and_windowed():
    rho = VP().rho(Coef(0.6)).item()
    most = one_step(Euler(churn=math.sqrt(2) - 1), VP(), 0.6, 0.4)
    assert torch.equal(one_step(Euler(churn=40.0), VP(), 0.6, 0.4), most)
    plain = one_step(DDIM(), VP(), 0.6, 0.4)
    for window in ({"churn_min": 1.01 * rho}, {"churn_max": 0.99 * rho}):
        torch.testing.assert_close(one_step(Euler(churn=40.0, **window), VP(), 0.6, 0.4), plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", [Euler, Heun])
def test_a_step_of_no_length_adds_no_noise(solver):
    torch.testing.assert_close(one_step(solver(churn=40.0), VP(), 0.5, 0.5), X, rtol=1e-12, atol=1e-12)
