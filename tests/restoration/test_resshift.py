"""The process against the formulas of the paper, written down a second time with plain numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.noise import Keyed
from suffuse.core.prediction import EPS, RESIDUAL, X0
from suffuse.core.training import Batch, Roles
from suffuse.core.value import Coef
from suffuse.restoration import ResShift
from suffuse.samplers.ancestral import DDPM
from suffuse.samplers.spacing import Trailing
from suffuse.testing import check_method
from suffuse.training.denoising import Denoising

settings_of = st.fixed_dictionaries(
    {
        "kappa": st.floats(0.25, 8.0),
        "p": st.floats(0.1, 3.0),
        "m": st.floats(0.02, 0.5),
        "T": st.integers(2, 15),
    }
)


def etas(kappa: float, p: float, m: float, T: int) -> np.ndarray:
    """eta_1 .. eta_T as the paper writes them."""
    first = min(m / kappa, m)
    t = np.arange(1, T + 1)
    return (first * (0.99 / first) ** (((t - 1) / (T - 1)) ** p)) ** 2


def pictures(seed: int) -> torch.Tensor:
    return torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Known(Denoiser):
    """Predicts 0.8 source + 0.1 tanh(state) as the clean picture, and remembers what it was asked."""

    def __init__(self, process: ResShift):
        super().__init__()
        self.process, self.gain, self.asked = process, nn.Parameter(torch.tensor(0.1, dtype=torch.float64)), []

    def clean(self, x, source):
        return 0.8 * source + self.gain * torch.tanh(x)

    def forward(self, x, t, cond=EMPTY):
        t, process = Coef(t), self.process.given(cond)
        self.asked.append(t)
        return process.predict(x, t, self.clean(x, cond["source"]), X0)


@given(settings_of)
@settings(max_examples=30, deadline=None)
def test_the_schedule_and_the_marginal(numbers):
    process, expected = ResShift(**numbers), etas(**numbers)
    x0, y = pictures(0), pictures(1)
    for k, eta in enumerate(expected, 1):
        t = Coef(k / process.T)
        assert math.isclose(process.eta(t).item(), eta, rel_tol=1e-9)
        law = process.given(Cond({"source": y})).marginal(x0, t)
        torch.testing.assert_close(law.mean, x0 + eta * (y - x0), rtol=1e-9, atol=1e-9)
        assert math.isclose(law.std.item(), process.kappa * math.sqrt(eta), rel_tol=1e-9)
    assert process.eta(Coef(0.0)).item() == 0.0


@given(settings_of)
@settings(max_examples=30, deadline=None)
def test_the_posterior_is_the_papers_for_any_state(numbers):
    process = ResShift(**numbers)
    eta = np.concatenate([[0.0], etas(**numbers)])
    x, x0, y = pictures(2), pictures(0), pictures(1)
    given_y = process.given(Cond({"source": y}))
    for k in range(process.T, 0, -1):
        t, s = Coef(k / process.T), Coef((k - 1) / process.T)
        alpha = eta[k] - eta[k - 1]
        law = given_y.posterior(x, given_y.predict(x, t, x0, X0), t, s)
        mean = eta[k - 1] / eta[k] * x + alpha / eta[k] * x0
        torch.testing.assert_close(law.mean, mean, rtol=1e-6, atol=1e-6)
        assert math.isclose(law.std.item() ** 2, process.kappa**2 * eta[k - 1] * alpha / eta[k], rel_tol=1e-9)


@pytest.mark.parametrize("T", [4, 15])
def test_a_run_is_the_papers_loop(T):
    process = ResShift(T=T, m=0.04 if T == 15 else 0.2)
    y, noise, denoiser = pictures(1), Keyed(5), Known(process)
    cond = Cond({"source": y})
    run = sample(denoiser, torch.zeros_like(y).shape, sampler=DDPM(), cond=cond, noise=noise)
    eta = np.concatenate([[0.0], etas(process.kappa, process.p, process.m, T)])
    x = y + process.kappa * math.sqrt(eta[T]) * noise.normal(y, range(3), "start")
    for i, k in enumerate(range(T, 0, -1)):
        alpha, x0 = eta[k] - eta[k - 1], denoiser.clean(x, y)
        x = eta[k - 1] / eta[k] * x + alpha / eta[k] * x0
        x = x + process.kappa * math.sqrt(eta[k - 1] * alpha / eta[k]) * noise.normal(y, range(3), f"step/{i}")
    torch.testing.assert_close(run.x.double(), x.double(), rtol=1e-6, atol=1e-6)
    assert [t.item() for t in denoiser.asked] == pytest.approx([k / T for k in range(T, 0, -1)])


@pytest.mark.parametrize("kind", [X0, EPS, RESIDUAL])
def test_every_kind_of_prediction_describes_the_same_picture(kind):
    process = ResShift().given(Cond({"source": pictures(1)}))
    x0, eps = pictures(0), pictures(3)
    for k in range(1, 5):
        t = Coef(k / 4)
        x = process.marginal(x0, t).at(eps)
        p = process.predict(x, t, process.target(x0, eps, t, kind), kind)
        torch.testing.assert_close(p.x0, x0, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(p.eps, eps, rtol=1e-6, atol=1e-6)


def test_it_is_trained_and_run_at_its_own_times_alone():
    process, y = ResShift(T=4), pictures(1)
    denoiser = Known(process)
    batch = Batch(pictures(0).repeat(40, 1, 1, 1), Cond({"source": y.repeat(40, 1, 1, 1)}), torch.arange(120))
    loss = Denoising()(Roles({"model": denoiser}), batch, Keyed(0), nn.ModuleDict())
    counts = (loss.t * 4).long().bincount(minlength=5)
    assert torch.equal(loss.t * 4, (loss.t * 4).round())
    assert counts[0] == 0 and (counts[1:] >= 15).all()  # about 30 each
    assert process.timestep(Coef(loss.t)).d.unique().tolist() == [0.0, 1.0, 2.0, 3.0]
    with pytest.raises(Refused, match="its own 4 times"):
        sample(denoiser, y.shape, sampler=DDPM(), spacing=Trailing(), cond=Cond({"source": y}))


def test_times_of_single_rows_and_shared_ones_agree():
    process = ResShift(T=5)
    for name in ("eta", "alpha", "sigma", "scale", "rho"):
        each = getattr(process, name)(Coef(torch.tensor([0.2, 0.5, 1.0])))
        assert each.d.tolist() == pytest.approx([getattr(process, name)(Coef(t)).item() for t in (0.2, 0.5, 1.0)])
    t = Coef(torch.linspace(0.05, 1.0, 20, dtype=torch.float64))
    torch.testing.assert_close(process.time(process.rho(t)).d, t.d)
    assert process.time(process.rho(Coef(0.37))).item() == pytest.approx(0.37)


def test_going_back_up_adds_what_the_forward_kernel_adds():
    process = ResShift().given(Cond({"source": pictures(1)}))
    t, s = Coef(0.5), Coef(0.75)
    x0, x = pictures(0), pictures(2)
    law = process.posterior(x, process.predict(x, t, x0, X0), t, s)
    eta = process.eta(s) - process.eta(t)
    torch.testing.assert_close(law.mean, x + eta * (pictures(1) - x0), rtol=1e-9, atol=1e-9)
    assert law.std.item() == pytest.approx(process.kappa * math.sqrt(eta.item()))


def test_the_network_sees_a_state_of_unit_size():
    process = ResShift(kappa=3.0)
    for k in range(1, 5):
        t = Coef(k / 4)
        assert process.scale(t).item() == pytest.approx(1 / math.sqrt(1 + 9 * process.eta(t).item()))


def test_wrong_numbers_and_a_missing_source_are_refused():
    for wrong in ({"kappa": 0.0}, {"p": 0.0}, {"m": 0.99}, {"T": 1}):
        with pytest.raises(BadInput, match="give kappa > 0"):
            ResShift(**wrong)
    with pytest.raises(BadInput, match="'source'"):
        ResShift().given(Cond())


@pytest.mark.parametrize("process", [ResShift(), ResShift(0.5, 0.3, 0.04, 15)], ids=str)
def test_the_generated_checks(process):
    check_method(process)
