"""Degradations of the real world, and colours put right: exact where they change nothing, by PIL's JPEG elsewhere."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from suffuse.core.noise import Keyed
from suffuse.images import to_pil, to_tensor
from suffuse.resolution import Blur
from suffuse.restoration import RealWorld, adain, coarse_colours
from suffuse.restoration.degradation import enlarge
from suffuse.restoration.real_world import jpeg

X = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
SMOOTH = Blur(2.0).low(X) * 3


def test_jpeg_is_pils():
    for quality in (30, 75):
        file = io.BytesIO()
        to_pil(SMOOTH[:1])[0].save(file, "JPEG", quality=quality, subsampling=0)
        found = jpeg(to_tensor(to_pil(SMOOTH[:1])[0]), torch.tensor([float(quality)]))
        theirs = to_tensor(Image.open(file).convert("RGB"))
        assert np.abs((found - theirs).numpy()).mean() < 1.5 / 127.5


def test_jpeg_of_the_best_quality_keeps_nearly_all():
    assert (jpeg(X, torch.full((3,), 100.0)) - X).abs().max() < 5 / 127.5
    assert torch.equal(jpeg(X, torch.tensor([10.0, 50, 90]))[1:2], jpeg(X[1:2], torch.tensor([50.0])))


def test_the_mildest_degradation_keeps_the_picture():
    mild = RealWorld(1, (1e-3, 1e-3), (0.0, 0.0), (100.0, 100.0))
    assert (mild.draw(X, Keyed(0), range(3)).y - X).abs().max() < 5 / 127.5


def test_a_picture_is_degraded_alike_in_any_batch():
    real = RealWorld(2)
    together = real.draw(X, Keyed(1), [4, 5, 6])
    alone = real.draw(X[1:2], Keyed(1), [5])
    torch.testing.assert_close(alone.y, together.y[1:2], atol=2e-2, rtol=0)  # a rounding may fall to the other side
    assert torch.equal(alone.drawn["quality"], together.drawn["quality"][1:2])
    assert together.y.shape == X.shape


def test_colours_are_those_of_the_reference():
    fixed = adain(X, SMOOTH)
    torch.testing.assert_close(fixed.mean((2, 3)), SMOOTH.mean((2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(fixed.std((2, 3)), SMOOTH.std((2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(adain(X, X), X, atol=1e-5, rtol=0)
    assert torch.equal(coarse_colours(X, X), X)
    shifted = coarse_colours(X, X + 0.5)
    torch.testing.assert_close(shifted, X + 0.5, atol=1e-4, rtol=0)


def test_reduced_pictures_are_those_that_are_enlarged():
    made, low = RealWorld(2).draw(X, Keyed(0), range(3)), RealWorld(2).reduced(X, Keyed(0), range(3))
    assert low.y.shape == (3, 3, 10, 12) and torch.equal(made.y, enlarge(low.y, 2))
