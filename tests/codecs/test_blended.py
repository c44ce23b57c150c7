"""Windows that fade into each other: exact where decoding is local, and finished row by row."""

from __future__ import annotations

import pytest
import torch

from suffuse.codecs import BlendedWindows, Pixels, PixelUnshuffle
from suffuse.core.errors import BadInput
from suffuse.resolution.tiles import Flat

Z = torch.randn(2, 12, 11, 7, generator=torch.Generator().manual_seed(0))


class OwnMean(Pixels):
    """A decoder of windows that differ: each becomes its own mean."""

    def decode(self, value, cond=None):
        return value.mean((2, 3), keepdim=True).expand_as(value)


@pytest.mark.parametrize("window, stride", [(4, 2), (5, 5), (4, 3), (16, 4)])
def test_a_local_codec_is_its_own(window, stride):
    inner = PixelUnshuffle(2)
    codec = BlendedWindows(inner, window, stride)
    torch.testing.assert_close(codec.decode(Z), inner.decode(Z), atol=1e-6, rtol=1e-6)
    assert torch.equal(codec.encode(inner.decode(Z))[0], Z)


def test_rows_come_one_by_one():
    bands = BlendedWindows(PixelUnshuffle(2), 4, 3).rows(Z)
    assert next(bands).shape == (2, 3, 6, 14)
    assert [b.shape[-2] for b in bands] == [6, 2, 8]


def test_two_windows_by_hand():
    z = torch.tensor([0.0, 0.0, 3.0, 6.0, 6.0, 6.0]).expand(1, 3, 4, 6)
    found = BlendedWindows(OwnMean(), 4, 2, Flat()).decode(z)
    left, right = 9 / 4, 21 / 4
    expected = torch.tensor([left, left, *[(left + right) / 2] * 2, right, right])
    torch.testing.assert_close(found, expected.expand(1, 3, 4, 6))
    edge = BlendedWindows(OwnMean(), 4, 2).decode(z)[0, 0, 1]
    assert left == pytest.approx(edge[0].item()) and left < edge[2] < edge[3] < right


def test_strides_are_checked():
    with pytest.raises(BadInput, match="stride=5"):
        BlendedWindows(Pixels(), 4, 5)
