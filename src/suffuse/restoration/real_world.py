"""What happens to pictures on their way: blur, reduction, noise and JPEG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.noise import Noise
from ..core.value import Coef
from ..resolution.bands import gaussian_blur
from .degradation import Degradation, Degraded, enlarge


@dataclass(frozen=True)
class RealWorld(Degradation):
    """Gaussian blur, reduction, Gaussian noise and JPEG, each of a strength drawn uniformly; enlarged again.

    Args:
        factor: of the reduction; both sides of a picture are multiples of it.
        blur: range of the standard deviation in pixels, above 0.
        noise: range of the standard deviation on the reduced picture.
        quality: range of JPEG's quality, 1 to 100.

    Example:
        >>> source = Pairs(Shuffled(pictures, Cond(), batch=8), RealWorld(4))
    """

    factor: int = 4
    blur: tuple[float, float] = (0.2, 2.0)
    noise: tuple[float, float] = (0.0, 0.1)
    quality: tuple[float, float] = (30.0, 95.0)

    def draw(self, x: Tensor, noise: Noise, samples: Sequence[int]) -> Degraded:
        low = self.reduced(x, noise, samples)
        return Degraded(enlarge(low.y, self.factor), low.drawn)

    def reduced(self, x: Tensor, noise: Noise, samples: Sequence[int]) -> Degraded:
        """The same before it is enlarged again."""
        u = noise.uniform(torch.empty(len(x), 3), samples, "degrade/strengths")
        sigma, level, quality = (
            low + (high - low) * share
            for (low, high), share in zip((self.blur, self.noise, self.quality), u.unbind(1), strict=True)
        )
        y = gaussian_blur(x, Coef(sigma), math.ceil(3 * self.blur[1]))
        y = F.interpolate(y, scale_factor=1 / self.factor, mode="bicubic", antialias=True)
        y = y + level.to(y)[:, None, None, None] * noise.normal(y, samples, "degrade/noise")
        return Degraded(jpeg(y.clamp(-1, 1), quality), {"blur": sigma, "noise": level, "quality": quality})


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """What baseline JPEG keeps of pictures (B, 3, H, W) in [-1, 1] at qualities (B,), without subsampling of colours.

    Blocks of 8x8 of the cosine transform of Y, Cb and Cr are rounded to multiples of the standard's tables.

    Reference: ITU-T T.81, Annex K (tables); scaled by quality as libjpeg does.
    """
    height, width = x.shape[-2:]
    edge = (0, -width % 8, 0, -height % 8)
    ycc = torch.einsum("ij,bjhw->bihw", _YCC.to(x), F.pad(127.5 * x, edge, mode="replicate"))
    blocks = ycc.unfold(2, 8, 8).unfold(3, 8, 8)
    q = quality.to(x)
    scale = torch.where(q < 50, 5000 / q, 200 - 2 * q).view(-1, 1, 1, 1)
    table = ((_TABLES.to(x) * scale + 50) / 100).floor().clamp(1, 255)[:, :, None, None]
    cosines = _COSINES.to(x)
    kept = cosines.T @ (((cosines @ blocks @ cosines.T) / table).round() * table) @ cosines
    whole = kept.permute(0, 1, 2, 4, 3, 5).reshape(ycc.shape)
    rgb = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(_YCC).to(x), whole) / 127.5
    return rgb[..., :height, :width].clamp(-1, 1)


_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=torch.float64
)
"""Y, Cb and Cr of red, green and blue (JFIF)."""

_LUMINANCE = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE = torch.full((8, 8), 99)
_CHROMINANCE[:4, :4] = torch.tensor([[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]])
_TABLES = torch.stack([_LUMINANCE, _CHROMINANCE, _CHROMINANCE]).double()
_N = torch.arange(8, dtype=torch.float64)
_COSINES = torch.cos(math.pi * (_N + 0.5) * _N[:, None] / 8) * torch.where(_N == 0, math.sqrt(1 / 8), 0.5)[:, None]
