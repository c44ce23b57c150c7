"""Interpolation between pictures: the formula by hand, ends, diagnostics."""

from __future__ import annotations

import math

import pytest
import torch

import suffuse
from suffuse.core.errors import BadInput
from suffuse.noise import AddedNoise, NoiseDiffusion, Slerp, interpolate
from suffuse.noise.interpolation import Diagnosis, Ends
from suffuse.world import frozen, render

TORCH = torch.Generator().manual_seed(0)
CLEAN = tuple(torch.randn(2, 4, 4, generator=TORCH) for _ in range(2))
NOISY = tuple(2.0 * torch.randn(2, 4, 4, generator=TORCH) for _ in range(2))
FRESH = torch.randn(2, 4, 4, generator=TORCH)
ENDS = Ends(CLEAN, NOISY, 0.3, 0.9, lambda tag: FRESH)


@pytest.mark.parametrize(("f", "gamma"), [(0.25, 0.0), (0.5, 0.4), (0.9, 0.1)])
def test_the_formula(f, gamma):
    alpha, beta = (math.sqrt(1 - gamma**2) * g(f * math.pi / 2) for g in (math.cos, math.sin))
    mu, nu = 1.2 * alpha / (alpha + beta), 1.2 * beta / (alpha + beta)
    z = alpha * NOISY[0].clamp(-2, 2) + beta * NOISY[1].clamp(-2, 2)
    z = z + (mu - alpha) * 0.3 * CLEAN[0] + (nu - beta) * 0.3 * CLEAN[1] + gamma * 0.9 * FRESH
    torch.testing.assert_close(NoiseDiffusion(gamma).between(ENDS, f), z.clamp(-2, 2))


def test_baselines():
    middle = Slerp().between(Ends(CLEAN, (NOISY[0], NOISY[0]), 0.3, 0.9, ENDS.draw), 0.5)
    torch.testing.assert_close(middle, NOISY[0])
    one, two = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    half = Slerp().between(Ends((one, two), (one, two), 0.3, 0.9, ENDS.draw), 0.5)
    torch.testing.assert_close(half, torch.full((1, 1, 2), math.sqrt(0.5)))
    mixed = AddedNoise().between(ENDS, 0.5)
    torch.testing.assert_close(mixed, 0.3 * math.sqrt(0.5) * (CLEAN[0] + CLEAN[1]) + 0.9 * FRESH)


def test_diagnosis_of_noise_and_of_a_ramp():
    found = Diagnosis.of(torch.randn(4, 128, 128, generator=torch.Generator().manual_seed(2)))
    assert abs(found.mean) < 0.02 and abs(found.std - 1) < 0.02 and abs(found.beyond - 0.0455) < 0.005
    assert abs(found.excess) < 0.1 and abs(found.correlation) < 0.02
    assert Diagnosis.of(torch.linspace(-1, 1, 64).expand(1, 64, 64)).correlation > 0.9


def test_the_ends_of_the_way_are_the_pictures():
    model, pixels = suffuse.load("shapes"), render(frozen("validation")[0][:2]).rgb
    found = interpolate(model, pixels[0], pixels[1], how=Slerp(), shares=(0.0, 1.0), steps=8, strength=0.25)
    for made, true in zip(found.pixels, pixels, strict=True):
        assert (made - true).square().mean() < 0.02
    assert len(found.images) == 2 and 0.3 < found.diagnoses[0].std < 3.0


def test_what_cannot_be_is_named():
    model, pixels = suffuse.load("shapes"), render(frozen("validation")[0][:1]).rgb[0]
    with pytest.raises(BadInput, match="shares"):
        interpolate(model, pixels, pixels, shares=(0.0, 1.5))
    with pytest.raises(BadInput, match="strength=0.01"):
        interpolate(model, pixels, pixels, strength=0.01, steps=10)
    with pytest.raises(BadInput, match="gamma"):
        NoiseDiffusion(gamma=1.0)
