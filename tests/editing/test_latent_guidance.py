"""Langevin steps on the noises of a sampler."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import grid_of
from suffuse.core.errors import BadInput
from suffuse.editing import Plan, guide_latent
from suffuse.editing.latent_guidance import decode_latent
from suffuse.guidance.cfg import CFG
from suffuse.processes import VP
from suffuse.samplers import DDPM
from suffuse.testing.analytic import Gaussian

from .editing_toys import close, net, prompts

COND = Cond({}, {"null": Cond()})


def known(steps=4, noise=0):
    law = Gaussian(torch.zeros(6), VP(), std=1.0)
    return Plan(law, grid_of(VP(), DDPM(), None, steps), DDPM(), CFG(1.0))


def test_the_gradient_through_checkpoints_is_that_without():
    plan = Plan(net("unet"), grid_of(net("unet").process, DDPM(), None, 3), DDPM(), CFG(1.0))
    cond, z = prompts("unet")[0], torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    at = z.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad((decode_latent(plan, at, cond, gradient=True) * direction).sum(), at)
    towards, h = slope / slope.norm(), 1e-2
    change = sum(s * (decode_latent(plan, z + s * h * towards, cond).double() * direction).sum() for s in (1, -1))
    assert float(change / (2 * h)) == pytest.approx(float(slope.norm()), rel=0.05)
    assert not slope[:, -1].any() and slope[:, :-1].abs().amax((0, 2, 3, 4)).min() > 0  # the last step draws nothing


def test_without_energy_it_draws_the_prior():
    found = guide_latent(known(), (256, 6), [lambda x: 0 * x.sum(1)], COND, strength=0.0, rate=0.5, iterations=10)
    assert abs(found.z.std() - 1.0) < 0.08  # a rate of 0.5 itself widens the law by 1 / sqrt(1 - 0.125)


def test_energies_are_summed_and_fall():
    wanted = [lambda x: (x[:, 0] - 2.0).square(), lambda x: (x[:, 1] + 2.0).square()]
    found = guide_latent(known(), (16, 6), wanted, COND, strength=20.0, rate=0.04, iterations=30)
    assert found.energies.shape == (31, 16)
    assert found.energies[-1].mean() < 0.1 * found.energies[0].mean()
    assert abs(found.x[:, 2:].mean()) < 0.4


def test_a_batch_is_what_its_rows_are_alone():
    energy = [lambda x: x.square().sum(1)]
    both = guide_latent(known(), (2, 6), energy, COND, iterations=3)
    alone = guide_latent(known(), (1, 6), energy, COND, iterations=3)
    assert close(both.x[:1], alone.x)


def test_unusable_arguments():
    with pytest.raises(BadInput, match="0 energies"):
        guide_latent(known(), (1, 6), [], COND)
    with pytest.raises(BadInput, match="rate=2.0"):
        guide_latent(known(), (1, 6), [torch.sum], COND, rate=2.0)
