"""Buckets of proportions, cuts that keep what captions say, and the phase of moving tiles."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.errors import BadInput
from suffuse.core.noise import Keyed
from suffuse.resolution import ARAD, FSTD, AnySizeDiffusion
from suffuse.resolution.any_size import Balanced, cut_around
from suffuse.resolution.bench import agreement, fine, seam_energy


def test_buckets_have_the_native_area():
    sizes = ARAD().sizes((64, 64), 4)
    assert len(sizes) == 9 and (64, 64) in sizes and (128, 32) in sizes and (32, 128) in sizes
    assert all(h % 4 == w % 4 == 0 and 0.85 < h * w / 64**2 < 1.15 for h, w in sizes)
    assert ARAD().nearest((100, 210), (64, 64), 4) == (44, 92) and ARAD().nearest((512, 512), (64, 64), 8) == (64, 64)


def test_areas_may_grow_with_the_proportions():
    assert ARAD((1 / 4, 1.0, 2.0), growth=1.0).sizes((64, 64), 4) == [(256, 64), (64, 64), (64, 128)]
    with pytest.raises(BadInput, match="growth"):
        ARAD(growth=float("nan"))


def test_cuts_keep_what_is_spoken_of():
    picture = torch.linspace(-1, 1, 64)[None, :, None].expand(3, 64, 64)
    low = cut_around(picture, (32, 64), (0.5, 0.0, 0.95, 1.0))
    assert low is not None and low.shape == (3, 32, 64) and float(low.min()) > -0.25 and float(low.max()) > 0.9
    middle = cut_around(picture, (32, 64), (0.5, 0.5, 0.5, 0.5))
    torch.testing.assert_close(middle, picture[:, 16:48], atol=1e-5, rtol=0)
    assert cut_around(picture, (32, 64), (0.1, 0.0, 0.9, 1.0)) is None
    assert cut_around(picture, (128, 32), (0.0, 0.4, 1.0, 0.6)).shape == (3, 128, 32)


def test_every_bucket_comes_as_often_and_has_one_size():
    model = SimpleNamespace(
        defaults=SimpleNamespace(size=(16, 16), multiple=4),
        encode=lambda x: x,
        condition=lambda texts, size: Cond({"label": torch.zeros(len(texts), dtype=torch.long)}),
    )
    pictures = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    source = ARAD((0.5, 1.0, 2.0)).source(model, pictures, ["a"] * 6, batch=2)
    seen = [tuple(source({}, Keyed(step), step).data.shape[-2:]) for step in range(300)]
    assert set(seen) == {(24, 12), (16, 16), (12, 24)} == set(source.sources)
    assert all(70 < seen.count(size) < 130 for size in set(seen))
    with pytest.raises(BadInput, match="batch"):
        Balanced({})
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 6)
    assert set(ARAD((0.5, 1.0)).source(model, pictures, ["a"] * 6, keep=whole, batch=2).sources) == {(16, 16)}


def test_phases():
    method = AnySizeDiffusion()
    assert method.first((64, 64), (128, 256), 4) == (44, 92)
    assert method.sizes((44, 92), (128, 256), 4) == [(44, 92), (128, 256)]
    assert method.tiles == FSTD() and method.sizes((64, 64), (64, 64), 4) == [(64, 64)]
    with pytest.raises(BadInput, match="ratios"):
        ARAD(())


def test_seams_agreement_and_sharpness():
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    torch.testing.assert_close(seam_energy(x, [8], [4, 12]), torch.ones(2, dtype=torch.float64), atol=0.5, rtol=0)
    step = torch.zeros(1, 1, 4, 8)
    step[..., 4:] = 1.0
    step = step + torch.arange(8) * 0.1
    assert seam_energy(step, [], [4]).item() == pytest.approx(1.21 / ((6 * 4 * 0.01) / (6 * 4 + 3 * 8)))
    small = torch.nn.functional.interpolate(x, (8, 8), mode="area")
    assert agreement(x, small).tolist() == pytest.approx([100.0, 100.0])
    assert agreement(small * 0 + 0.5, small * 0).tolist() == pytest.approx([12.04] * 2, abs=0.01)
    assert (fine(2 * x) / fine(x)).tolist() == pytest.approx([4.0, 4.0])
