"""Gaussian processes: tables against diffusers' schedules, formulas against their derivatives, the three laws."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.law import Delta, Normal
from suffuse.core.prediction import EPS, FLOW, SCORE, X0, V
from suffuse.core.process import Gaussian
from suffuse.core.value import Coef
from suffuse.processes import VE, VP, Cosine, Flow, Table
from suffuse.samplers import DDIM
from suffuse.testing.analytic import GaussianMixture

PROCESSES = [Table(), Table(zero_snr=True), Table("squaredcos_cap_v2", N=100), Flow(), VP(), Cosine(), VE()]
EACH = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: str(p)[:60])
TIMES = st.floats(0.002, 0.998)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_tables_are_those_of_diffusers(schedule, zero):
    theirs = diffusers.DDPMScheduler(beta_schedule=schedule, beta_start=0.001, beta_end=0.02,
                                     rescale_betas_zero_snr=zero)  # fmt: skip
    ours = Table(schedule, 0.001, 0.02, zero_snr=zero)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-4 if zero else 0, atol=1e-7 * zero)
    given_betas = Table(betas=tuple(theirs.betas.tolist()))
    torch.testing.assert_close(given_betas.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-6, atol=0)


def test_timesteps_of_a_table():
    table = Table()
    for k in (0, 1, 500, 998, 999):
        t = Coef((k + 1) / 1000)
        abar = float(table.alphas_cumprod[k].double())
        assert table.timestep(t).item() == pytest.approx(k, abs=1e-9)
        assert table.alpha(t).item() ** 2 == pytest.approx(abar, rel=1e-12)
        assert table.sigma(t).item() ** 2 == pytest.approx(1 - abar, rel=1e-9)
    assert table.timestep(Coef(0.0)).item() == 0 == table.timestep(Coef(torch.tensor([0.0, 0.5]))).d[0]
    assert table.alpha(Coef(0.0)).item() == 1 and table.sigma(Coef(0.0)).item() == 0
    last = Table(zero_snr=True)
    assert last.alpha(Coef(1.0)).item() == 0 and last.sigma(Coef(1.0)).item() == 1
    with pytest.raises(BadInput, match="did you mean linear"):
        Table("linaer").alphas_cumprod  # noqa: B018


@EACH
@given(t=TIMES)
@settings(deadline=None, max_examples=25)
def test_time_inverts_the_noise_level(process, t):
    rho = process.rho(Coef(t))
    assert process.time(rho).item() == pytest.approx(t, abs=1e-9)
    assert rho.item() == pytest.approx(process.sigma(Coef(t)).item() / process.alpha(Coef(t)).item(), rel=1e-9)
    assert process.logsnr(Coef(t)).item() == pytest.approx(-math.log(rho.item()), abs=1e-8)


@EACH
def test_many_times_at_once_are_each_of_them(process):
    times = torch.tensor([0.0, 0.0004, 0.001, 0.0123, 0.3, 0.5004, 0.9996, 1.0], dtype=torch.float64)
    for name in ("alpha", "sigma", "rho", "timestep", "logsnr"):
        batched = getattr(process, name)(Coef(times)).d
        single = [getattr(process, name)(Coef(t)).item() for t in times]
        torch.testing.assert_close(batched, torch.tensor(single, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    # above its last timestep but one, a table of zero terminal SNR is pure noise
    inner = times[1:-2]
    torch.testing.assert_close(process.time(process.rho(Coef(inner))).d, inner, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("process", [Flow(), VP(), Cosine()], ids=lambda p: type(p).__name__)
@given(t=TIMES)
@settings(deadline=None, max_examples=25)
def test_slopes_are_derivatives(process, t):
    step = 1e-5
    for slope, value in zip(process.slope(Coef(t)), (process.alpha, process.sigma), strict=True):
        numeric = (value(Coef(t + step)).item() - value(Coef(t - step)).item()) / (2 * step)
        assert slope.item() == pytest.approx(numeric, rel=2e-3, abs=1e-5)


@EACH
@given(t=TIMES, s=TIMES, eta=st.sampled_from([0.0, 0.3, 1.0]))
@settings(deadline=None, max_examples=25)
def test_the_posterior_leads_to_the_marginal(process: Gaussian, t, s, eta):
    """With the truth as prediction, x_s has the mean alpha_s x0 and the variance sigma_s^2, downwards and upwards."""
    x0, eps = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, s = Coef(t), Coef(s)
    x = process.alpha(t) * x0 + process.sigma(t) * eps
    law = process.posterior(x, process.predict(x, t, eps, EPS), t, s, eta)
    std = law.std.item() if isinstance(law, Normal) else 0.0
    kept = (law.mean - process.alpha(s) * x0) / eps
    assert isinstance(law, Delta if eta == 0 else Normal)
    torch.testing.assert_close(
        kept**2 + std**2, torch.full_like(eps, process.sigma(s).item() ** 2), rtol=1e-5, atol=1e-7
    )
    still = process.posterior(x, process.predict(x, t, eps, EPS), t, t, eta)
    torch.testing.assert_close(still.mean, x)
    assert isinstance(still, Delta) or still.std.item() == 0


def test_the_posterior_of_ddpm():
    """Its variance is beta_k (1 - abar_{k-1}) / (1 - abar_k)."""
    table = Table("linear", 1e-4, 0.02)
    abar = table.alphas_cumprod.double()
    for k in (1, 10, 500, 999):
        beta = 1 - abar[k] / abar[k - 1]
        want = float((beta * (1 - abar[k - 1]) / (1 - abar[k])).sqrt())
        assert table.reverse_std(Coef((k + 1) / 1000), Coef(k / 1000)).item() == pytest.approx(want, rel=1e-6)


@EACH
def test_kinds_say_the_same(process):
    x0, eps = torch.randn(2, 3, 4, dtype=torch.float64)
    for t in (Coef(0.31), Coef(torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))):
        x = process.alpha(t) * x0 + process.sigma(t) * eps
        for kind in (EPS, X0, V, SCORE, FLOW):
            try:
                p = process.predict(x, t, process.target(x0, eps, t, kind), kind)
            except Refused:
                assert kind == FLOW and not isinstance(process, (Flow, VP, Cosine))
                continue
            torch.testing.assert_close(p.x0, x0, rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(p.eps, eps, rtol=1e-7, atol=1e-7)
            there = p.combined(Coef(0.3), Coef(-1.7))
            torch.testing.assert_close(there, 0.3 * x0 - 1.7 * eps, rtol=1e-7, atol=1e-7)


def test_a_denoiser_in_another_process():
    means = torch.tensor([[1.0, 0.5], [-0.8, 0.9]])
    x = torch.randn(5, 2, dtype=torch.float64)
    for base in (Table(), Flow(), VE()):
        for other in (VP(), Flow(), Cosine()):
            ends = (1.0,) if base == Flow() else ()  # the others never saw so much noise
            for t in (0.0, 0.4, torch.tensor([0.0, 0.1, 0.2, 0.4, 0.6]), *ends):
                here = GaussianMixture(means, base, kind=X0).under(other)(x, t)
                there = GaussianMixture(means, other, kind=X0)(x, t)
                torch.testing.assert_close(here.x0, there.x0, rtol=1e-6, atol=1e-6)
                torch.testing.assert_close(here.eps, there.eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("base", [Table(), Table(zero_snr=True), VP(), VE()], ids=lambda p: type(p).__name__)
def test_beyond_its_noise_a_denoiser_is_asked_at_its_last_time(base):
    known, one = GaussianMixture(torch.tensor([[1.0, 0.5], [-0.8, 0.9]]), base, kind=V), Coef(1.0)
    x = torch.randn(5, 2, dtype=torch.float64)
    p = known.under(Flow())(x, 1.0)
    scale = math.hypot(base.alpha(one).item(), base.sigma(one).item())
    torch.testing.assert_close(p.x0, known(scale * x, 1.0).x0)
    assert torch.equal(p.eps, x)
    end = sample(known.under(Flow()), x, sampler=DDIM(), steps=8).x
    assert torch.isfinite(end).all()


def test_what_a_table_says_of_a_time_is_computed_once_and_of_rows_each_time():
    table = Table()
    t, rows = Coef(0.5), Coef(torch.tensor([0.5, 0.7]))
    assert table.alpha(t) is table.alpha(Coef(0.5)) and table.steps(4) is table.steps(4)
    assert table.alpha(rows) is not table.alpha(rows)
    assert table.alpha(rows).d[0].item() == pytest.approx(table.alpha(t).d, rel=1e-12)
