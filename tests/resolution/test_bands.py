"""Low bands: exact transforms, and linear maps that keep what is coarse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.core.value import Coef
from suffuse.resolution import Blur, Cosines, Wavelet
from suffuse.resolution.bands import daubechies, gaussian_blur


def picture(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("order", range(1, 11))
def test_filters_are_orthonormal_with_vanishing_moments(order):
    h = daubechies(order)
    overlaps = [h[2 * k :] @ h[: len(h) - 2 * k] for k in range(order)]
    np.testing.assert_allclose(overlaps, np.eye(order)[0], atol=1e-7)
    g = h[::-1] * (-1.0) ** np.arange(len(h))
    moments = [g @ (np.arange(len(h)) / len(h)) ** k for k in range(order)]
    np.testing.assert_allclose(moments, 0.0, atol=1e-6)


def test_known_filters():
    np.testing.assert_allclose(daubechies(1), [0.5**0.5] * 2)
    root = 3**0.5
    np.testing.assert_allclose(daubechies(2), np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * 2**0.5))
    np.testing.assert_allclose(daubechies(4)[:3], [0.2303778133, 0.7148465706, 0.6308807679], atol=1e-9)


@pytest.mark.parametrize("wavelet", [Wavelet(), Wavelet(1), Wavelet(10), Wavelet(lowpass=(1.0, 1.0))], ids=str)
@pytest.mark.parametrize("n", [64, 33, 7, 2])
def test_reconstruction_is_exact(wavelet, n):
    x = picture(2, 3, n)
    low, high = wavelet.split(x)
    torch.testing.assert_close(wavelet.merge(low, high, n), x, atol=1e-5, rtol=0)


def test_haar_by_hand():
    x = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    assert Wavelet(1).low(x).flatten().tolist() == pytest.approx([4.0] * 4)
    low, high = Wavelet(1).split(torch.tensor([3.0, 1.0]))
    assert low.tolist() == pytest.approx([4 / 2**0.5]) and abs(high.item()) == pytest.approx(2 / 2**0.5)


def test_exchanging_the_low_band_exchanges_the_ll_part_alone():
    """Of a periodic interior, away from borders: LL is the guide's, the other three parts are the picture's."""
    wavelet, x, guide = Wavelet(2), picture(1, 1, 32, 32), picture(2, 1, 32, 32)[1:]
    swapped = x + wavelet.low(guide - x)

    def parts(v):
        lows, highs = wavelet.split(v)
        return [p for side in (lows, highs) for p in wavelet.split(side.mT)]

    for k, (found, own, other) in enumerate(zip(parts(swapped), parts(x), parts(guide), strict=True)):
        inside = (..., slice(3, -3), slice(3, -3))
        torch.testing.assert_close(found[inside], (other if k == 0 else own)[inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("band", [Wavelet(), Wavelet(2, level=3), Cosines(0.5), Cosines(0.1), Blur(1.5)], ids=str)
def test_bands_keep_what_is_flat_and_are_linear(band):
    x, y = picture(2, 3, 20, 27), picture(3, 3, 20, 27)[1:]
    torch.testing.assert_close(band.low(torch.full((1, 2, 20, 27), 0.7)), torch.full((1, 2, 20, 27), 0.7))
    torch.testing.assert_close(band.low(2 * x + y), 2 * band.low(x) + band.low(y), atol=1e-5, rtol=1e-5)
    assert band.low(x).std() < 0.7 * x.std()
    torch.testing.assert_close(band.low(x[1:]), band.low(x)[1:], atol=1e-6, rtol=1e-5)


def test_all_cosines_are_the_picture_and_lower_ones_are_a_projection():
    x = picture(1, 2, 12, 16)
    torch.testing.assert_close(Cosines(1.0).low(x), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(Cosines(0.3).low(Cosines(0.3).low(x)), Cosines(0.3).low(x), atol=1e-5, rtol=1e-5)


def test_a_blur_for_each_sample():
    x = picture(2, 3, 12, 9)
    both = gaussian_blur(x, Coef(torch.tensor([0.5, 2.0])), 3)
    for k, sigma in enumerate((0.5, 2.0)):
        torch.testing.assert_close(both[k : k + 1], Blur(sigma, 3).low(x[k : k + 1]))
    torch.testing.assert_close(Blur(1e-3, 1).low(x), x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Wavelet(0),
        lambda: Wavelet(level=0),
        lambda: Wavelet(lowpass=(1.0, 2.0, 3.0)),
        lambda: Wavelet(lowpass=(1.0, 2.0, 3.0, 4.0)),
        lambda: Cosines(0.0),
        lambda: Blur(0.0),
    ],
)
def test_refusals(make):
    with pytest.raises(BadInput):
        make()
