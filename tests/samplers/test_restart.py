"""Restart: the law of the data stays, noise contracts errors, and everything happens where it is said."""

from __future__ import annotations

import math

import pytest
import torch

from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.core.expression import parse, unparse
from suffuse.core.noise import Keyed, Shifted
from suffuse.core.prediction import X0
from suffuse.core.value import Coef
from suffuse.processes import VP, Flow, Table
from suffuse.samplers import DDIM, DPMSolverPP, Heun, Karras, Restart
from suffuse.testing.analytic import Gaussian

MEAN, STD = torch.tensor([0.7, -0.4]), 0.6
SPACING = Karras(sigma_min=0.03, sigma_max=14.0)
PROCESSES = pytest.mark.parametrize("process", [VP(), Flow(), Table()], ids=lambda p: type(p).__name__)


def states(n: int) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@PROCESSES
@pytest.mark.parametrize("inner", [Heun(), DPMSolverPP(2)], ids=str)
def test_the_law_of_the_data_comes_out(inner, process):
    law = Gaussian(MEAN, process, std=STD, kind=X0)
    x = sample(law, states(2500), sampler=Restart(inner), steps=40, spacing=SPACING).x
    torch.testing.assert_close(x.mean(0), MEAN.double(), atol=0.05, rtol=0)
    torch.testing.assert_close(x.std(0), torch.full((2,), STD, dtype=torch.float64), atol=0.045, rtol=0)


def test_errors_from_before_are_contracted():
    """States that begin 0.2 too high are nearer to the data after restarts than after the ODE."""
    law = Gaussian(MEAN, Table(), std=0.1, kind=X0)
    starts = {"noise": 0, "steps": 30, "spacing": SPACING}

    def off(sampler):
        return float((sample(law, states(400) + 3.0, sampler=sampler, **starts).x.mean(0) - MEAN).abs().max())

    assert off(Restart(Heun(), ((4, 6, 0.05, 2.0),))) < 0.2 * off(Heun())


def test_evaluations_are_those_of_the_way_back():
    law = Gaussian(MEAN, Table(), std=STD, kind=X0)
    for inner, each in ((DDIM(), 1), (Heun(), 2)):
        plain, restarted = (
            sample(law, states(2), sampler=s, steps=12, spacing=SPACING).nfe.tolist()
            for s in (inner, Restart(inner, ((5, 3, 0.1, 2.0), (3, 2, 1.0, 4.0))))
        )
        assert [b - a for a, b in zip(plain, restarted, strict=True)] == [each * (3 * 4 + 2 * 2)] * 2


def test_one_restart_by_hand():
    law, process = Gaussian(MEAN, VP(), std=STD, kind=X0), VP()
    z = torch.full((3, 2), 0.5, dtype=torch.float64)
    run = dict(steps=8, spacing=SPACING, noise=Shifted(Keyed(0), lambda v, key: z))
    plain = sample(law, states(3), sampler=DDIM(), save=lambda r: r.state.x, **run).saved
    grid = SPACING.grid(process, 8)
    rhos = [process.rho(grid.node(i)).item() for i in range(8)]
    i = min(range(1, 8), key=lambda k: abs(rhos[k] - 0.1))
    y = plain[i] / process.alpha(grid.node(i)).item() + math.sqrt(2.0**2 - rhos[i] ** 2) * z
    middle = ((2.0 ** (1 / 7) + rhos[i] ** (1 / 7)) / 2) ** 7
    for rho, after in ((2.0, middle), (middle, rhos[i])):
        t = process.time(Coef(rho))
        y = y + (after - rho) * law(process.alpha(t).item() * y, t).eps
    restarted = sample(law, states(3), sampler=Restart(DDIM(), ((3, 1, 0.1, 2.0),)), save=lambda r: r.state.x, **run)
    torch.testing.assert_close(restarted.saved[i], process.alpha(grid.node(i)).item() * y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(restarted.saved[i - 1], plain[i - 1], rtol=0, atol=0)


def test_numbers_are_checked_and_said():
    for bad in ((1, 1, 0.1, 2.0), (3, 1, 2.0, 0.1), (3, -1, 0.1, 2.0), (3, 1, 0.0, 2.0)):
        with pytest.raises(BadInput, match="0 < t_min < t_max"):
            Restart(DDIM(), (bad,))
    sampler = Restart(DDIM(eta=0.5), ((3, 10, 0.06, 0.3),))
    assert parse(unparse(sampler)) == sampler
    assert parse("Restart(DDIM(), ((3, 1, 0.1, 2.0),))") == Restart(DDIM(), ((3, 1, 0.1, 2.0),))
