"""Shifts of start noise: exact moments, the same ranks, and what takes them back."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.core.value import Coef
from suffuse.evaluation import measure_brittleness
from suffuse.noise import Correlated, MeanShift, OtherLaw, ScaleShift, ShiftedStart, Standardise
from suffuse.samplers import DDPM
from suffuse.testing import fixtures

Z = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def test_moments_move_as_said():
    assert torch.equal(MeanShift(0.5)(Z), Z + 0.5)
    assert torch.equal(MeanShift(0.5, channel=1)(Z)[:, [0, 2, 3]], Z[:, [0, 2, 3]])
    assert torch.equal(ScaleShift(2.0)(Z), 2.0 * Z)
    torch.testing.assert_close(Standardise()(3.0 * Z + 1.0), Standardise()(Z), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("law", ["uniform", "laplace", "bernoulli"])
def test_other_laws_keep_mean_variance_and_ranks(law):
    z = torch.randn(1, 1, 400, 400, generator=torch.Generator().manual_seed(1))
    moved = OtherLaw(law)(z)
    assert abs(moved.mean()) < 0.01 and abs(moved.var() - 1.0) < 0.02
    order = z.flatten().argsort()
    assert bool((moved.flatten()[order].diff() >= 0).all())


def test_filtered_noise_is_correlated_and_as_strong():
    moved = Correlated(1.0)(Z)
    torch.testing.assert_close(moved.flatten(1).square().mean(1), torch.ones(3), atol=1e-5, rtol=1e-5)
    assert (moved[..., 1:] * moved[..., :-1]).mean() > 0.5 and torch.equal(Correlated(0.0)(Z), Z)
    torch.testing.assert_close(moved[[1]], Correlated(1.0)(Z[[1]]))


def test_only_the_start_of_a_run_is_shifted():
    net, cond = fixtures.fixture("unet-v"), fixtures.conditions("unet-v", 2)
    run = dict(sampler=DDPM(), steps=3, cond=cond, noise=4)
    x = fixtures.states("unet-v", 2)
    shifted = sample(net, x, hooks=[ShiftedStart((MeanShift(0.3), ScaleShift(1.1)))], **run).x
    sigma = net.process.sigma(Coef(1.0)).item()
    torch.testing.assert_close(shifted, sample(net, 1.1 * (x + 0.3 * sigma), **run).x, atol=1e-4, rtol=1e-4)


def test_brittleness_of_a_known_curve():
    def pictures(severity):
        return torch.full((4, 1, 2, 2), severity)

    def score(made, prompts):
        right = torch.tensor([p == k for k, p in enumerate(prompts)]).double()
        return right * (1.0 - made.flatten(1).mean(1).double())

    report = measure_brittleness(pictures, score, (0.0, 0.5, 1.0))
    assert report.alignment.mean(1).tolist() == [1.0, 0.5, 0.0] and report.area == 0.5
    assert report.critical(0.75) == pytest.approx(0.25) and report.critical(-0.1) is None
    assert report.unconditioned.tolist() == [0.0, 0.0, 1.0]
    assert report.distance[:, 0].tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(BadInput, match="rising"):
        measure_brittleness(pictures, score, (0.5, 0.0))


def test_an_unknown_law_is_named():
    with pytest.raises(BadInput, match="laplace"):
        OtherLaw("laplac")
    assert ShiftedStart((MeanShift(1.0),)).neutral() == ShiftedStart()
