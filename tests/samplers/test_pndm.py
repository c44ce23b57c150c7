"""PNDM: its weights, its first step, and diffusers' scheduler."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from torch import Tensor

from suffuse.core.denoiser import Denoiser, count_evaluation
from suffuse.core.engine import sample, trace
from suffuse.core.grid import Grid
from suffuse.core.prediction import EPS, FLOW
from suffuse.core.value import Coef
from suffuse.processes import VE, Flow, Table
from suffuse.samplers import DDIM, PNDM, Leading, Trailing
from suffuse.testing.analytic import GaussianMixture

TABLE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True)


class Powers(Denoiser):
    """Noise is a power of sigma, whatever the state: x moves by its integral."""

    def __init__(self, degree: int):
        super().__init__()
        self.process, self.degree = VE(), degree

    def forward(self, x, t, cond=None):
        sigma = self.process.sigma(t).item()
        return self.process.predict(x, t, torch.full_like(x, sigma**self.degree), EPS)


def even(n: int, low: float = 1.0, high: float = 4.0) -> Grid:
    """n equal steps of sigma."""
    sigmas = torch.linspace(high, low, n + 1, dtype=torch.float64)
    return Grid(VE().time(Coef(sigmas)).d)


def net(x: Tensor, timestep: float) -> Tensor:
    return torch.tanh(x.roll(1, -1) + 0.5 * math.sin(timestep / 250)) + 0.3 * x


class Toy(Denoiser):
    def __init__(self):
        super().__init__()
        self.process = Table()

    def forward(self, x, t, cond=None):
        count_evaluation()
        return self.process.predict(x, t, net(x, self.process.timestep(t).item()), EPS)


def theirs(x: Tensor, n: int, **settings) -> Tensor:
    scheduler = diffusers.PNDMScheduler(**TABLE, **settings)
    scheduler.set_timesteps(n)
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, float(t)), t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("settings", "spacing", "n"),
    [
        (dict(steps_offset=1), Leading(1, end=0.001), 10),
        (dict(set_alpha_to_one=True), Leading(), 8),
        (dict(timestep_spacing="trailing", set_alpha_to_one=True), Trailing(), 10),
    ],
)
def test_it_is_diffusers_without_runge_kutta_steps(settings, spacing, n):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    out = sample(Toy(), x, sampler=PNDM(), steps=n, spacing=spacing)
    want = theirs(x, n, **settings)
    assert float((out.x - want).norm() / want.norm()) < 1e-5
    assert out.nfe.tolist() == [n + 1] * 2


@pytest.mark.parametrize(("degree", "steps"), [(1, 1), (1, 5), (0, 5)])
def test_a_line_is_integrated_exactly(degree, steps):
    """The first step is the trapezoidal rule here, and every later rule is of order 2 at least."""
    x = torch.ones(1, 1, dtype=torch.float64)
    out = sample(Powers(degree), x, sampler=PNDM(), grid=even(steps)).x
    torch.testing.assert_close(out, x + (1.0 - 4.0 ** (degree + 1)) / (degree + 1))


def test_the_fourth_step_has_the_weights_of_order_four():
    x, grid = torch.ones(1, 1, dtype=torch.float64), even(4)
    before, after = [r.state.x for r in trace(Powers(3), x, sampler=PNDM(), grid=grid)][-2:]
    e = [VE().sigma(grid.node(i)).item() ** 3 for i in (3, 2, 1, 0)]
    step = -0.75 * (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
    assert float(after - before) == pytest.approx(step, rel=1e-9)


def test_one_step_to_data_is_ddims():
    x = torch.randn(2, 4, 8, 8)
    one = sample(Toy(), x, sampler=PNDM(), steps=1)
    assert torch.equal(one.x, sample(Toy(), x, sampler=DDIM(), steps=1).x) and one.nfe.tolist() == [1, 1]


def test_flows_begin_with_ddim():
    law = GaussianMixture(torch.eye(2, dtype=torch.float64), Flow(), std=0.3, kind=FLOW)
    x = torch.randn(3, 2, dtype=torch.float64)
    (pndm, ddim) = (
        sample(law, x, sampler=s, steps=6, save=lambda r: (r.state.x, int(r.nfe[0]))) for s in (PNDM(), DDIM())
    )
    torch.testing.assert_close(pndm.saved[1][0], ddim.saved[1][0])
    assert [nfe for _, nfe in pndm.saved] == [0, 1, 3, 4, 5, 6, 7]
