"""How far each picture is from the one that it should equal, on all pixels or a region: squared error, PSNR, SSIM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from suffuse.core.errors import BadInput, nearest
from suffuse.core.registry import method

from .pictures import Pictures
from .scores import Scored

REGIONS = ("all", "inside", "outside")

CEILING = 100.0
"""PSNR in dB of equal pictures, whose true value is infinite, and the most that any pair is given."""

SIGMA, RADIUS = 1.5, 5
"""SSIM's window: a Gaussian of this width, cut at 3.5 standard deviations to 11 x 11."""


@dataclass(frozen=True)
class _Compared(Scored):
    """A score of a picture beside its reference, over the pixels of a region."""

    region: str = "all"

    def __post_init__(self) -> None:
        if self.region not in REGIONS:
            raise BadInput(f"region={self.region!r}: {nearest(self.region, REGIONS)}")

    @property
    def name(self) -> str:
        return type(self).__name__ if self.region == "all" else f"{type(self).__name__} {self.region}"

    @property
    def _where(self) -> str:
        return "all pixels" if self.region == "all" else f"pixels {self.region} the mask"


def _average(values: Tensor, region: Tensor, name: str) -> Tensor:
    """(B,): mean over channels and the region's pixels of (B, C, H, W)."""
    count = region.sum((1, 2, 3))
    if not bool((count > 0).all()):
        row = int(count.argmin())
        raise BadInput(f"mask: no pixel {name} it in picture {row}; leave the picture out or measure another region")
    return (values * region).sum((1, 2, 3)) / (count * values.shape[1])


def squared_error(pictures: Pictures, region: str, what: str) -> Tensor:
    """(B,) float64 mean squared error on a scale of [0, 1]."""
    x, y = pictures.pairs(what)
    return _average((x - y).square(), pictures.region(region, what), region)


@method(tags=("metric",))
@dataclass(frozen=True)
class MSE(_Compared):
    """Mean squared error of pixels on a scale of [0, 1].

    Args:
        region: "all", "inside" or "outside" of the pictures' mask.
    """

    @property
    def protocol(self) -> str:
        return f"squared error on [0, 1], {self._where}"

    def score(self, pictures: Pictures) -> Tensor:
        return squared_error(pictures, self.region, self.name)


@method(tags=("metric",))
@dataclass(frozen=True)
class PSNR(_Compared):
    """Peak signal-to-noise ratio, -10 log10 MSE in dB with peak 1, averaged over pictures and at most 100 dB each.

    Args:
        region: "all", "inside" or "outside" of the pictures' mask; outside is what an edit should leave alone.
    """

    @property
    def protocol(self) -> str:
        return f"dB, of each picture, at most {CEILING:g}, {self._where}"

    def score(self, pictures: Pictures) -> Tensor:
        return (-10 * squared_error(pictures, self.region, self.name).log10()).clamp(max=CEILING)


@method(tags=("metric",))
@dataclass(frozen=True)
class SSIM(_Compared):
    """Structural similarity, (2 m_x m_y + c_1)(2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1)(s_x^2 + s_y^2 + c_2)), averaged.

    Means m and covariances s are those under a Gaussian window of standard deviation 1.5 (11 x 11 pixels) that lies
    whole within the picture; c_1 = 0.01^2, c_2 = 0.03^2 on a scale of [0, 1]; channels are averaged. Equal to
    scikit-image's structural_similarity with gaussian_weights and population covariances. With a region, windows whose
    centre lies in it are averaged.

    Args:
        region: "all", "inside" or "outside" of the pictures' mask.

    Reference: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004.
    """

    @property
    def protocol(self) -> str:
        return f"Gaussian window of 1.5 pixels (11 x 11), channels averaged, {self._where}"

    def score(self, pictures: Pictures) -> Tensor:
        x, y = pictures.pairs(self.name)
        if min(x.shape[2:]) <= 2 * RADIUS:
            raise BadInput(f"images: {tuple(x.shape[2:])} pixels; SSIM's window needs {2 * RADIUS + 1} or more a side")
        mx, my = _blur(x), _blur(y)
        sxx, syy, sxy = _blur(x * x) - mx * mx, _blur(y * y) - my * my, _blur(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        similarity = (2 * mx * my + c1) * (2 * sxy + c2) / ((mx * mx + my * my + c1) * (sxx + syy + c2))
        centres = pictures.region(self.region, self.name)[..., RADIUS:-RADIUS, RADIUS:-RADIUS]
        return _average(similarity, centres, self.region)


def _blur(x: Tensor) -> Tensor:
    """Gaussian means of all windows that lie within (B, C, H, W)."""
    u = torch.arange(-RADIUS, RADIUS + 1, dtype=x.dtype)
    g = torch.exp(-0.5 * (u / SIGMA) ** 2)
    g = (g / g.sum()).to(x.device)
    flat = x.flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(flat, g[None, None, :, None]), g[None, None, None, :])[:, 0].unflatten(0, x.shape[:2])
