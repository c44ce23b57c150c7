"""A kind of prediction is a row, and the same row is the training target."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.grid import Grid
from suffuse.core.prediction import EPS, FLOW, KINDS, RESIDUAL, SCORE, X0, Kind, Logits, V
from suffuse.core.value import Coef
from suffuse.processes import VE, VP, Cosine, Flow, Table
from suffuse.restoration import ResShift
from suffuse.samplers import DDIM
from suffuse.testing.analytic import GaussianMixture

PROCESSES = [Flow(), VP(), Cosine(), VE(), Table()]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@given(t=st.floats(0.02, 0.98))
def test_the_target_of_each_kind_gives_back_data_and_noise(process, t):
    x0, eps, t = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64), Coef(t)
    x = process.alpha(t) * x0 + process.sigma(t) * eps
    for kind in (EPS, X0, V, SCORE, *([FLOW] if not isinstance(process, (VE, Table)) else [])):
        p = process.predict(x, t, process.target(x0, eps, t, kind), kind)
        torch.testing.assert_close(p.x0, x0, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(p.eps, eps, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(p.with_(x0=p.x0).eps, eps, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(p.with_(eps=p.eps).x0, x0, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("process", [Flow(), VP(), Cosine(), Table()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("t", [0.0, torch.tensor([0.0, 0.5])], ids=["one", "each"])
def test_without_noise_the_state_is_the_data(process, t):
    x, value, t = torch.randn(2, 3), torch.randn(2, 3), Coef(t)
    for kind in (EPS, X0, V, SCORE, RESIDUAL, *([FLOW] if not isinstance(process, Table) else [])):
        p = process.predict(x, t, value, kind)
        for s in (Coef(0.0), Coef(0.4)):
            moved = process.posterior(x, p, t, s, 0.0).mean
            stays = process.alpha(s) * x[0]
            if kind in (X0, RESIDUAL, SCORE):  # the others say what the noise is
                assert torch.equal(p.eps[0], torch.zeros(3))
                torch.testing.assert_close(moved[0], stays)
            assert torch.isfinite(moved).all() and torch.isfinite(p.eps).all() and torch.isfinite(p.x0).all()


@pytest.mark.parametrize("process", [Flow(), VP(), Table()], ids=lambda p: type(p).__name__)
def test_an_inversion_begins_at_the_data(process):
    means, grid = torch.tensor([[1.0, 0.5], [-0.8, 0.9]]), Grid(torch.linspace(0, 0.9, 10))
    runs = [
        sample(GaussianMixture(means, process, std=0.3, kind=kind), means.flip(1), sampler=DDIM(), grid=grid).x
        for kind in (EPS, X0, V)
    ]
    torch.testing.assert_close(runs[1], runs[0])
    torch.testing.assert_close(runs[2], runs[0])


def test_residual_rows_read_the_second_end_point():
    y = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    process = ResShift().given(Cond({"source": y}))
    x0, eps = torch.randn_like(y), torch.randn_like(y)
    resnoise = Kind("resnoise", lambda p, t: (Coef(-0.3), Coef(1.0), Coef(0.3)))
    for kind in (RESIDUAL, resnoise, X0, EPS):
        for t in (Coef(0.5), Coef(torch.tensor([0.25, 1.0]))):
            x = process.corrupt(x0, t, lambda like, tag="", kind="normal": eps)
            p = process.predict(x, t, process.target(x0, eps, t, kind), kind)
            torch.testing.assert_close(p.x0, x0)
            torch.testing.assert_close(p.eps, eps)


def test_mix_rows_put_rebase():
    process, t = VP(), Coef(torch.tensor([0.3, 0.6]))
    x = torch.randn(2, 3)
    p, q = process.predict(x, t, torch.randn(2, 3), V), process.predict(x, t, torch.randn(2, 3), V)
    mixed = p.mix([3.0, -2.0], [p, q])
    torch.testing.assert_close(mixed.eps, 3 * p.eps - 2 * q.eps)
    torch.testing.assert_close(p[1:].x0, p.x0[1:])
    torch.testing.assert_close(p.put(torch.tensor([1]), q[1:]).x0, torch.stack([p.x0[0], q.x0[1]]))
    torch.testing.assert_close(p.rebase(x + 1).eps, p.eps)
    torch.testing.assert_close(p.shift(q.eps).eps, p.eps + q.eps)
    assert set(KINDS) == {"eps", "x0", "v", "flow", "score", "residual"}


@pytest.mark.parametrize("kind", [EPS, X0, V, FLOW], ids=lambda k: k.name)
def test_differences_of_outputs_are_added_in_any_kind(kind):
    process, t, x = Flow(), Coef(torch.tensor([0.3, 0.6])), torch.randn(2, 3)
    p, q = (process.predict(x, t, torch.randn(2, 3), V) for _ in range(2))
    base = process.predict(x, t, torch.randn(2, 3), kind)
    moved = base.add(2.0 * (p.value - q.value), of=p)
    torch.testing.assert_close(moved.eps, base.eps + 2.0 * (p.eps - q.eps), atol=1e-5, rtol=1e-5)


def test_a_difference_of_velocities_survives_pure_noise():
    process, x = Flow(), torch.randn(1, 3)
    p = process.predict(x, Coef(1.0), torch.randn(1, 3), FLOW)
    assert torch.equal(p.add(torch.ones(1, 3), of=p).value, p.value + 1.0)


def test_logits_keep_impossible_states_impossible():
    a = Logits(torch.tensor([[2]]), torch.tensor([[[1.0, 2.0, -torch.inf]]]))
    b = Logits(torch.tensor([[2]]), torch.tensor([[[0.0, 1.0, -torch.inf]]]))
    assert a.mix([2.0, -1.0], [a, b]).logits.tolist() == [[[2.0, 3.0, -float("inf")]]]
    assert a.probs[0, 0, 2] == 0 and a.x0.item() == 1
