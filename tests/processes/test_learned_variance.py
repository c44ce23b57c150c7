"""A learned variance: as in improved DDPM, for any pair of times."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.core.law import Delta
from suffuse.core.prediction import EPS, V
from suffuse.core.value import Coef
from suffuse.processes import LearnedVariance, Table
from suffuse.samplers import DDIM, DDPM, Heun

PROCESS, TABLE = LearnedVariance("linear", 1e-4, 0.02), Table("linear", 1e-4, 0.02)
X, OUT = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0)).chunk(2)
X, OUT = X[0], torch.cat([OUT[0], 3 * X[0].flip(0)], 1)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 1000), st.data())
def test_the_variance_is_that_of_a_respaced_chain(k, data):
    j = data.draw(st.integers(1, k - 1))
    abar = PROCESS.alphas_cumprod.double()
    beta = 1 - abar[k - 1] / abar[j - 1]
    low = beta * (1 - abar[j - 1]) / (1 - abar[k - 1])
    p = PROCESS.predict(X, Coef(k / 1000), OUT, EPS)
    law = PROCESS.posterior(X, p, Coef(k / 1000), Coef(j / 1000))
    v = (OUT[:, 2:].double() + 1) / 2
    expected = torch.exp(v * beta.log() + (1 - v) * low.log())
    torch.testing.assert_close(law.std.d**2, expected, rtol=1e-5, atol=1e-12)
    plain = TABLE.posterior(X, TABLE.predict(X, Coef(k / 1000), OUT[:, :2], EPS), Coef(k / 1000), Coef(j / 1000))
    torch.testing.assert_close(law.mean, plain.mean)


def test_at_the_ends_of_its_range_it_is_both_known_variances():
    t, s = Coef(torch.tensor([0.9, 0.5, 0.1])), Coef(torch.tensor([0.5, 0.4, 0.05]))
    for v, std in ((-1.0, PROCESS.reverse_std(t, s)), (1.0, PROCESS.reverse_std(s, t))):
        p = PROCESS.predict(X, t, torch.cat([X, torch.full_like(X, v)], 1), EPS)
        found = PROCESS.posterior(X, p, t, s).std.d
        torch.testing.assert_close(found, std.d[:, None, None, None].double().expand_as(found), rtol=1e-5, atol=0)


def test_where_nothing_is_random_it_adds_nothing():
    p = PROCESS.predict(X, Coef(0.5), OUT, EPS)
    for s in (0.0, 0.5):  # the last step, and no move
        assert (PROCESS.posterior(X, p, Coef(0.5), Coef(s)).std.d == 0).all()
    up = PROCESS.posterior(X, p, Coef(0.5), Coef(0.6)).std.d
    torch.testing.assert_close(up, torch.full_like(up, PROCESS.reverse_std(Coef(0.5), Coef(0.6)).d))
    assert isinstance(PROCESS.posterior(X, p, Coef(0.5), Coef(0.4), 0.0), Delta)


def test_predictions_keep_it():
    p = PROCESS.predict(X, Coef(torch.tensor([0.2, 0.5, 0.9])), OUT, V)
    for other in (p.shift(eps=X), p.with_(x0=X), p.add(X, of=p), p.mix([2.0, -1.0], [p, p]), p.rebase(2 * X)):
        assert torch.equal(other.v, p.v)
    rows = torch.tensor([2, 0])
    assert torch.equal(p[rows].v, p.v[rows])
    assert torch.equal(p.put(rows, p[rows.flip(0)]).v[rows], p.v[rows.flip(0)])


class Fixed(Denoiser):
    process = PROCESS

    def forward(self, x, t, cond=EMPTY):
        return self.process.predict(x, Coef(t), torch.cat([0.9 * x, 4 * x.tanh()], 1), EPS)


def test_ancestral_samplers_use_it_and_others_do_not():
    def run(sampler, process):
        denoiser = Fixed()
        denoiser.process = process
        return sample(denoiser, X, sampler=sampler, steps=5).x

    class Mean(LearnedVariance):
        def posterior(self, *args, **kwargs):
            return Table.posterior(self, *args, **kwargs)

    blind = Mean("linear", 1e-4, 0.02)
    for sampler in (DDIM(), DDIM(0.5), Heun()):
        assert torch.equal(run(sampler, PROCESS), run(sampler, blind))
    for sampler in (DDPM(), DDIM(1.0)):
        assert not torch.equal(run(sampler, PROCESS), run(sampler, blind))
    whole = run(DDPM(), PROCESS)
    one = sample(Fixed(), X[[1]], sampler=DDPM(), steps=5, samples=[1]).x
    torch.testing.assert_close(one, whole[[1]])


def test_networks_without_a_variance_are_named():
    with pytest.raises(BadInput, match="2 channels for a state of 2"):
        PROCESS.predict(X, Coef(0.5), X, EPS)
