from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_toys import pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from suffuse.core.errors import BadInput
from suffuse.evaluation import MSE, PSNR, SSIM, HighFrequencyShare, Pictures


def arrays(p):
    return zip((p.images.double() / 2 + 0.5).numpy(), (p.references.double() / 2 + 0.5).numpy(), strict=True)


@given(side=st.integers(11, 24), seed=st.integers(0, 50), channels=st.sampled_from([1, 3]))
@settings(max_examples=15, deadline=None)
def test_the_figures_are_those_of_scikit_image(side, seed, channels):
    p = pictures(3, side, seed, channels)
    how = dict(data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    expected = [structural_similarity(a, b, **how) for a, b in arrays(p)]
    np.testing.assert_allclose(SSIM().score(p), expected, atol=1e-6)
    np.testing.assert_allclose(MSE().score(p), [mean_squared_error(a, b) for a, b in arrays(p)], rtol=1e-12)
    np.testing.assert_allclose(
        PSNR().score(p), [peak_signal_noise_ratio(a, b, data_range=1) for a, b in arrays(p)], rtol=1e-10
    )


def test_equal_pictures():
    p = pictures(3)
    same = Pictures(p.images, references=p.images)
    for metric, value in ((MSE(), 0.0), (PSNR(), 100.0), (SSIM(), 1.0)):
        (found,) = metric.result(metric.measure(same)).values()
        assert found.mean == pytest.approx(value) and found.interval == pytest.approx((value, value))


def test_regions_see_their_own_pixels_alone():
    p = pictures(4)
    edited = Pictures(torch.where(p.mask, p.images, p.references), references=p.references, mask=p.mask)
    assert PSNR("outside").score(edited).tolist() == [100.0] * 4
    assert MSE("inside").score(edited) == pytest.approx(MSE("inside").score(p))
    share = p.mask.double().mean((1, 2, 3))
    both = MSE("inside").score(p) * share + MSE("outside").score(p) * (1 - share)
    assert both.numpy() == pytest.approx(MSE().score(p).numpy())
    window = slice(5, -5)
    share = p.mask[..., window, window].double().mean((1, 2, 3))
    both = SSIM("inside").score(p) * share + SSIM("outside").score(p) * (1 - share)
    assert both.numpy() == pytest.approx(SSIM().score(p).numpy())


@pytest.mark.parametrize("metric", [MSE(), PSNR("inside"), SSIM("outside"), HighFrequencyShare(0.3)])
@given(cut=st.integers(1, 4))
@settings(max_examples=4, deadline=None)
def test_two_states_merge_to_that_of_one_pass(metric, cut):
    p = pictures(5)
    merged = metric.merge(metric.measure(p[:cut]), metric.measure(p[cut:]))
    ((name, one),) = metric.result(merged).items()
    whole = metric.result(metric.update(metric.init(), p))[name]
    assert one.n == 5 and one.mean == pytest.approx(whole.mean) and one.interval == pytest.approx(whole.interval)


def test_a_pure_wave_lies_above_or_below_the_cutoff():
    u = torch.arange(16) * 2 * torch.pi / 16
    waves = torch.stack([torch.cos(k * u).expand(3, 16, 16) for k in (3, 5)])
    assert HighFrequencyShare(0.5).score(Pictures(waves)).tolist() == pytest.approx([0.0, 1.0], abs=1e-12)
    both = Pictures((0.6 * waves[:1] + 0.8 * waves[1:]) / 2)
    assert HighFrequencyShare(0.5).score(both).item() == pytest.approx(0.64)
    assert HighFrequencyShare(0.5).score(Pictures(torch.full((1, 3, 8, 8), 0.3))).item() == 0.0


def test_what_is_missing_is_named():
    bare = Pictures(torch.zeros(2, 3, 16, 16))
    with pytest.raises(BadInput, match="references: None, and PSNR"):
        PSNR().score(bare)
    with pytest.raises(BadInput, match="mask: None, and PSNR outside"):
        PSNR("outside").score(Pictures(bare.images, references=bare.images))
    with pytest.raises(BadInput, match="region='outsid'"):
        PSNR("outsid")
    with pytest.raises(BadInput, match="no pixel inside it in picture 1"):
        mask = torch.ones(2, 16, 16)
        mask[1] = 0
        MSE("inside").score(Pictures(bare.images, references=bare.images, mask=mask))
    with pytest.raises(BadInput, match="SSIM's window needs 11"):
        SSIM().score(Pictures(torch.zeros(1, 3, 10, 16), references=torch.zeros(1, 3, 10, 16)))
    with pytest.raises(BadInput, match="give floats"):
        Pictures(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(BadInput, match="captions: 1 for 2 images"):
        Pictures(bare.images, captions=["one"])
