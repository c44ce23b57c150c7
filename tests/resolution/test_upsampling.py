"""Upsampling stages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from suffuse.backbones import family_of
from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.core.prediction import EPS
from suffuse.networks import ADMUNet
from suffuse.processes import LearnedVariance
from suffuse.resolution import Upsampler
from suffuse.samplers import DDIM, DDPM


def upsampler(classes=None):
    torch.manual_seed(0)
    net = ADMUNet(8, 1, 1, 8, (1, 2), 1, (4,), 8, classes=classes, groups=4).eval()
    return Network(net, family_of(net), LearnedVariance("linear", 1e-4, 0.02), EPS)


@pytest.mark.parametrize("sampler", [DDIM(), DDPM()], ids=str)
def test_it_is_a_run_beside_the_small_picture(sampler):
    denoiser, small = upsampler(3), torch.rand(3, 1, 4, 4) * 2 - 1
    label = torch.tensor([2, 0, 1])
    cond = Cond({"label": label}, {"target": Cond({"label": label})})
    large = Upsampler(denoiser, (8, 8), sampler, 3)(small, cond, noise=5)
    source = F.interpolate(small, (8, 8), mode="bilinear")
    expected = sample(denoiser, (3, 1, 8, 8), sampler=sampler, steps=3, cond=Cond({"label": label, "source": source}),
                      noise=5).x  # fmt: skip
    torch.testing.assert_close(large, expected)
    one = Upsampler(denoiser, (8, 8), sampler, 3)(small[[1]], cond[[1]], noise=5, samples=[1])
    torch.testing.assert_close(one, large[[1]], rtol=1e-4, atol=1e-5)
    other = Upsampler(denoiser, (8, 8), sampler, 3)(small.flip(0), cond, noise=5)
    assert (other - large).abs().max() > 1e-3


def test_pictures_that_are_too_large_are_named():
    with pytest.raises(BadInput, match="no larger than"):
        Upsampler(upsampler(), (8, 8))(torch.zeros(1, 1, 9, 8))
