"""Restored pictures with the colours of what they were made from."""

from __future__ import annotations

from torch import Tensor

from ..resolution.bands import Band, Wavelet


def adain(picture: Tensor, reference: Tensor) -> Tensor:
    """std(r) (x - mean(x)) / std(x) + mean(r), of each channel of each picture.

    Args:
        picture: x, (B, C, H, W).
        reference: r, (B, C, h, w) of any size.

    Reference: Huang and Belongie, Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization,
    1703.06868.
    """

    def moments(v: Tensor) -> tuple[Tensor, Tensor]:
        return v.mean((2, 3), keepdim=True), v.std((2, 3), keepdim=True)

    (mean, std), (wanted_mean, wanted_std) = moments(picture), moments(reference)
    return wanted_std * (picture - mean) / std.clamp(min=1e-5) + wanted_mean


def coarse_colours(picture: Tensor, reference: Tensor, band: Band = Wavelet(level=4)) -> Tensor:
    """x + low(r - x): the fine part of a picture with the coarse part of the reference.

    Args:
        picture: x, (B, C, H, W).
        reference: r, of the same shape.
        band: what is coarse.

    Reference: Wang et al., Exploiting Diffusion Prior for Real-World Image Super-Resolution, 2305.07015 (there with an
    undecimated transform).
    """
    return picture + band.low(reference - picture)
