"""What samplers with noise draw, on a law that is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.engine import sample
from suffuse.core.grid import Grid
from suffuse.core.noise import Keyed, Shifted, Stream
from suffuse.core.prediction import X0, Affine
from suffuse.core.sampler import Sampler
from suffuse.core.value import Coef
from suffuse.processes import VP, Flow, Table
from suffuse.samplers import DDIM, DDPM, LCM, DPMSolverPP, Euler, EulerAncestral, Heun, Karras
from suffuse.testing.analytic import Gaussian

MEAN, STD, N = torch.tensor([0.7, -0.4]), 0.6, 2500
STOCHASTIC = [DDIM(0.6), DDPM(), EulerAncestral(), DPMSolverPP(1, sde=True), DPMSolverPP(2, sde=True),
              DPMSolverPP(3, sde=True),
              Euler(churn=20.0), Heun(churn=20.0), Heun(churn=20.0, churn_min=0.05, churn_max=5.0)]  # fmt: skip


@pytest.mark.parametrize("process", [VP(), Flow(), Table()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("sampler", STOCHASTIC, ids=str)
def test_the_law_of_the_data_comes_out(sampler, process):
    denoiser = Gaussian(MEAN, process, std=STD, kind=X0)
    noise = Stream(torch.Generator().manual_seed(0))
    spacing = Karras(sigma_min=0.03, sigma_max=14.0)
    start = torch.randn(N, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = sample(denoiser, start, sampler=sampler, steps=100, spacing=spacing, noise=noise).x
    torch.testing.assert_close(x.mean(0), MEAN.double(), atol=0.05, rtol=0)
    torch.testing.assert_close(x.std(0), torch.full((2,), STD, dtype=torch.float64), atol=0.045, rtol=0)


def test_consistency_sampling_jumps_to_the_prediction():
    denoiser = Gaussian(MEAN, Flow(), std=STD, kind=X0)
    x = torch.randn(4, 2, dtype=torch.float64)
    one = sample(denoiser, x, sampler=LCM(d=1e-6), steps=1).x
    torch.testing.assert_close(one, denoiser(x, 1.0).x0, rtol=1e-6, atol=1e-6)
    # between steps the prediction is noised to the next time, with alpha and sigma of the process
    grid = Grid(torch.tensor([1.0, 0.4], dtype=torch.float64))
    z = torch.randn(4, 2, dtype=torch.float64)
    two = sample(denoiser, x, sampler=LCM(d=1e-6), grid=grid, noise=Shifted(Keyed(0), lambda v, key: z)).x
    torch.testing.assert_close(two, 0.6 * denoiser(x, 1.0).x0 + 0.4 * z, rtol=1e-6, atol=1e-6)


class Along(Denoiser):
    """Predicts an x0 that depends on the log-SNR alone, so that a solver's extrapolation is all that matters."""

    def __init__(self, power: int):
        super().__init__()
        self.process, self.power = VP(), power

    def forward(self, x: Tensor, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Affine:
        value = torch.full_like(x, (self.process.logsnr(Coef(t)).item() / 4) ** self.power)
        return self.process.predict(x, Coef(t), value, X0)


def mean_path(sampler: Sampler, denoiser: Denoiser, n: int) -> float:
    """Where the mean of the SDE ends: the run whose noise is 0."""
    rhos = torch.linspace(math.log(20.0), math.log(0.05), n + 1, dtype=torch.float64).exp()
    grid = Grid(torch.tensor([denoiser.process.time(Coef(float(r))).item() for r in rhos]))
    silent = Shifted(Keyed(0), lambda z, key: torch.zeros_like(z))
    start = torch.zeros(1, 1, dtype=torch.float64)
    return sample(denoiser, start, sampler=sampler, grid=grid, noise=silent).x.item()


def exact(denoiser: Along, sde: bool) -> float:
    """alpha_s (1 + c) integral of e^(-(1 + c) (lambda_s - lambda)) x0(lambda), with c = 1 for the SDE."""
    lams = torch.linspace(-math.log(20.0), -math.log(0.05), 20001, dtype=torch.float64)
    rate = 2.0 if sde else 1.0
    end = denoiser.process.alpha(denoiser.process.time(Coef(0.05))).item()
    decay = rate * torch.exp(-rate * (lams[-1] - lams))
    return end * float(torch.trapezoid(decay * (lams / 4) ** denoiser.power, lams))


@pytest.mark.parametrize("sde", [False, True])
def test_order_three_extrapolates_lines_exactly(sde):
    """Once it knows two past predictions; what the first steps lack hardly matters at the end."""
    line = Along(1)
    errors = [abs(mean_path(DPMSolverPP(k, sde=sde), line, 30) - exact(line, sde)) for k in (2, 3)]
    assert errors[1] < 2e-4 and errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("order", [2, 3])
def test_both_are_of_second_order_at_least(order, sde):
    curve = Along(2)
    errors = [abs(mean_path(DPMSolverPP(order, sde=sde), curve, n) - exact(curve, sde)) for n in (40, 80)]
    assert math.log2(errors[0] / errors[1]) > 1.7
