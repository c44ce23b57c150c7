"""The hybrid loss: its bound is that of improved DDPM, and trains the variance alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.errors import BadInput
from suffuse.core.noise import Keyed
from suffuse.core.prediction import EPS
from suffuse.core.training import Batch, Phase, Roles
from suffuse.core.value import Coef
from suffuse.processes import LearnedVariance, Table
from suffuse.training import Denoising, NoisyClassification, Timesteps, Trainer, UniformTimes, VariationalBound
from suffuse.training.denoising import Draw
from suffuse.training.optimisers import AdamW
from suffuse.training.variational_bound import log_level

PROCESS = LearnedVariance("linear", 1e-4, 0.02)


def drawn(k, out, levels=256):
    """A draw at timesteps k, and its parts by name."""
    x0 = (torch.randint(levels, (len(k), 1, 2, 2), generator=torch.Generator().manual_seed(0)) / (levels - 1)) * 2 - 1
    eps, t = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)), Coef(k.double() / 1000)
    x = PROCESS.alpha(t) * x0 + PROCESS.sigma(t) * eps
    return Draw(x0, EMPTY, t, eps, x, PROCESS.predict(x, t, out, EPS))


def test_the_bound_is_the_divergence_of_two_normal_laws():
    k = torch.tensor([2, 500, 1000])
    out = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(2), requires_grad=True)
    draw = drawn(k, out)
    found = VariationalBound(PROCESS)(draw, nn.ModuleDict())
    abar = PROCESS.alphas_cumprod.double()
    for row, i in enumerate((k - 1).tolist()):
        beta = 1 - abar[i] / abar[i - 1]
        low = beta * (1 - abar[i - 1]) / (1 - abar[i])
        a, b = abar[i - 1].sqrt() * beta / (1 - abar[i]), (1 - beta).sqrt() * (1 - abar[i - 1]) / (1 - abar[i])
        x, eps, v = draw.x[row].double(), out[row, :1].double(), (out[row, 1:].double() + 1) / 2
        guess = (x - (1 - abar[i]).sqrt() * eps) / abar[i].sqrt()
        std = torch.exp(0.5 * (v * beta.log() + (1 - v) * low.log()))
        truth = Normal(a * draw.x0[row].double() + b * x, low.sqrt())
        kl = torch.distributions.kl_divergence(truth, Normal(a * guess + b * x, std))
        torch.testing.assert_close(found[row].double(), 1000 * kl.mean() / math.log(2), rtol=2e-3, atol=1e-5)


def test_it_leaves_the_mean_alone():
    out = torch.randn(2, 2, 2, 2, requires_grad=True)
    loss = VariationalBound(PROCESS)(drawn(torch.tensor([1, 300]), out), nn.ModuleDict()).sum()
    (gradient,) = torch.autograd.grad(loss, out)
    assert (gradient[:, :1] == 0).all() and (gradient[:, 1:] != 0).all()


def test_the_first_timestep_decodes_levels():
    x0 = torch.tensor([[-1.0, 0.0, 1.0, 2 / 16]])
    mean, std = torch.tensor([[-0.9, 0.01, 0.97, 0.1]]), Coef(0.05)
    found, law = log_level(x0, mean, std, 17).exp(), Normal(mean.double(), 0.05)
    half = 1 / 16
    expected = law.cdf(x0 + half) - law.cdf(x0 - half)
    expected[0, 0], expected[0, 2] = law.cdf(x0 + half)[0, 0], 1 - law.cdf(x0 - half)[0, 2]
    torch.testing.assert_close(found, expected)
    every = log_level(torch.linspace(-1, 1, 17), torch.full((17,), 0.3), Coef(0.2), 17).exp()
    torch.testing.assert_close(every.sum(), torch.tensor(1.0, dtype=torch.float64))
    draw = drawn(torch.tensor([1, 1]), torch.zeros(2, 2, 2, 2))
    bits = VariationalBound(PROCESS)(draw, nn.ModuleDict())
    mean = draw.pred.x0
    expected = -log_level(draw.x0, mean, PROCESS.std(draw.pred, draw.t, Coef(0.0)), 256).flatten(1).mean(1)
    torch.testing.assert_close(bits.double(), 1000 * expected / math.log(2), rtol=1e-5, atol=1e-5)


class Learner(Denoiser):
    """The right noise, and one number for the variance."""

    process = PROCESS

    def __init__(self):
        super().__init__()
        self.v = nn.Parameter(torch.tensor(0.0))

    def forward(self, x, t, cond=EMPTY):
        t = Coef(t)
        # data N(0, I): E eps = sigma x, and q(x_s | x_t) has variance beta
        return PROCESS.predict(x, t, torch.cat([PROCESS.sigma(t) * x, self.v.expand_as(x)], 1), EPS)


def test_training_finds_the_variance_of_the_reverse_step():
    model, times = Learner(), UniformTimes(0.1, 0.6)
    objective = Denoising(times=times, extra=(VariationalBound(PROCESS, scale=1.0),))
    trainer = Trainer({"model": model}, Phase(objective, optim=AdamW(lr=0.1, weight_decay=0.0), clip=None))

    def source(step):
        generator = torch.Generator().manual_seed(step)
        return Batch(torch.randn(64, 8, 2, 2, generator=generator), Cond(), torch.arange(64))

    for log in trainer.fit(source, 60):
        assert math.isfinite(log.losses["model"]) and "model.vlb" in log.losses
    assert model.v > 0.95  # the variance of the exact reverse step of normal data is beta, the upper end


def test_timesteps_are_those_of_the_table():
    t = Timesteps(10)(torch.tensor([0.0, 0.05, 0.1, 0.11, 0.999]))
    torch.testing.assert_close(t, torch.tensor([0.1, 0.1, 0.1, 0.2, 1.0]))


def test_networks_without_a_variance_are_refused():
    draw = drawn(torch.tensor([5]), torch.zeros(1, 2, 2, 2))
    plain = Table().predict(draw.x, draw.t, draw.x, EPS)
    with pytest.raises(BadInput, match="Affine has no variance"):
        VariationalBound(PROCESS)(Draw(draw.x0, EMPTY, draw.t, draw.eps, draw.x, plain), nn.ModuleDict())


def test_a_classifier_learns_from_noisy_states():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, x, t):
            return torch.stack([self.w * x[:, 0], -self.w * x[:, 0]], 1)

    net, y = Line(), torch.arange(64) % 2
    batch = Batch((1.0 - 2 * y.float())[:, None], Cond({"label": y}), torch.arange(64))
    objective = NoisyClassification(Table())
    loss = objective(Roles({"classifier": net}), batch, Keyed(0), nn.ModuleDict())
    torch.testing.assert_close(loss.per_sample.detach(), torch.full((64,), math.log(2)))
    trainer = Trainer({"classifier": net}, Phase(objective, trains="classifier", optim=AdamW(lr=0.1)))
    logs = list(trainer.fit(lambda step: batch, 30))
    assert net.w > 0.5 and logs[-1].losses["classifier"] < logs[0].losses["classifier"]
