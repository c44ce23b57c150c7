"""Low bands of pictures: what of them is coarse, by wavelets, by cosines, or by blurring."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadInput
from ..core.registry import method
from ..core.value import Coef, combine


class Band(ABC):
    """A linear map of pictures to their coarse part; the rest, x - low(x), is the fine part. A frozen dataclass."""

    @abstractmethod
    def low(self, x: Tensor) -> Tensor:
        """The coarse part of (B, C, H, W), of the same shape."""


@method(tags=("band",))
@dataclass(frozen=True)
class Wavelet(Band):
    """The LL part of an orthogonal wavelet transform, by itself transformed back.

    With W = (LL, LH, HL, HH):  W^-1(LL(y), LH(x), HL(x), HH(x)) = x + low(y - x)  exchanges the LL part of x for that
    of y. Borders are continued symmetrically, the transform of any size is inverted exactly.

    Args:
        order: vanishing moments of the Daubechies wavelet, 1 (Haar) to 10; 4 is "db4".
        level: how often the LL part is divided again, 1 or more.
        lowpass: scaling filter of another orthogonal wavelet, of even length, which takes the place of `order`.

    Raises:
        BadInput: numbers out of range, or a filter that is not orthogonal to its own even shifts.

    Reference: Daubechies, Orthonormal bases of compactly supported wavelets, 1988.
    """

    order: int = 4
    level: int = 1
    lowpass: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 10 or self.level < 1:
            raise BadInput(f"Wavelet(order={self.order}, level={self.level}): an order is 1 to 10, a level 1 or more")
        if self.lowpass and not _orthogonal(np.array(self.lowpass)):
            raise BadInput(f"Wavelet(lowpass={self.lowpass}): not orthogonal to its even shifts; give a scaling filter")

    def low(self, x: Tensor) -> Tensor:
        return self._low(x, self.level)

    def _low(self, x: Tensor, level: int) -> Tensor:
        if not level:
            return x
        rows, _ = self.split(x)
        coarse, _ = self.split(rows.mT)
        coarse = self._low(coarse, level - 1)
        rows = self.merge(coarse, torch.zeros_like(coarse), x.shape[-2]).mT
        return self.merge(rows, torch.zeros_like(rows), x.shape[-1])

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Low and high part (..., m) of (..., n) along its last side, m = n / 2 + (taps - 2) / 2, rounded down."""
        h, g = self._filters(x)
        n, taps = x.shape[-1], len(h)
        extended = x[..., mirrored(n, taps - 2, taps - 1)]
        both = F.conv1d(extended.reshape(-1, 1, extended.shape[-1]), torch.stack([h, g])[:, None], stride=2)
        both = both[..., : (n - 1) // 2 + taps // 2].reshape(*x.shape[:-1], 2, -1)
        return both[..., 0, :], both[..., 1, :]

    def merge(self, low: Tensor, high: Tensor, n: int) -> Tensor:
        """(..., n) that `split` divided into these."""
        h, g = self._filters(low)
        both = torch.stack([low, high], -2).reshape(-1, 2, low.shape[-1])
        whole = F.conv_transpose1d(both, torch.stack([h, g])[:, None], stride=2)
        return whole[..., len(h) - 2 : len(h) - 2 + n].reshape(*low.shape[:-1], n)

    def _filters(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Scaling and wavelet filter, g[k] = (-1)^k h[taps - 1 - k]."""
        h = np.array(self.lowpass) / np.linalg.norm(self.lowpass) if self.lowpass else daubechies(self.order)
        g = h[::-1] * (-1.0) ** np.arange(len(h))
        return torch.from_numpy(h).to(like), torch.from_numpy(g.copy()).to(like)


def _orthogonal(h: np.ndarray) -> bool:
    """Whether a filter of even length has no overlap with itself moved by 2, 4, ... entries."""
    overlaps = [float(h[k:] @ h[: len(h) - k]) for k in range(2, len(h), 2)]
    return len(h) % 2 == 0 and bool(np.allclose(overlaps, 0.0, atol=1e-5 * float(h @ h)))


@lru_cache
def daubechies(order: int) -> np.ndarray:
    """(2 order,) the extremal-phase scaling filter, by spectral factorisation.

    |H(w)|^2 = 2 cos^(2 N)(w / 2) sum_k binom(N - 1 + k, k) sin^(2 k)(w / 2): of each pair of roots of the sum, the one
    inside of the unit circle is taken.
    """
    coefficients = [math.comb(order - 1 + k, k) for k in range(order)]
    h = np.ones(1)
    for y in np.roots(coefficients[::-1]):
        # y = (2 - z - 1 / z) / 4
        h = np.convolve(h, [1.0, -min(np.roots([1.0, 4.0 * y - 2.0, 1.0]), key=abs)])
    for _ in range(order):
        h = np.convolve(h, [1.0, 1.0])
    return np.real(h) * math.sqrt(2.0) / np.real(h).sum()


@method(tags=("band",))
@dataclass(frozen=True)
class Cosines(Band):
    """The lowest frequencies of the cosine transform (DCT-II) along both sides.

    Args:
        share: of the frequencies along each side, above 0 and at most 1.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise BadInput(f"Cosines(share={self.share}): give a share above 0 and at most 1")

    def low(self, x: Tensor) -> Tensor:
        down, right = (self._basis(n).to(x) for n in x.shape[-2:])
        return down.T @ (down @ x @ right.T) @ right

    def _basis(self, n: int) -> Tensor:
        """(m, n) the first m cosines, orthonormal."""
        k = torch.arange(max(1, round(self.share * n)), dtype=torch.float64)[:, None]
        basis = torch.cos(math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) * k / n) * math.sqrt(2 / n)
        basis[0] /= math.sqrt(2)
        return basis


@method(tags=("band",))
@dataclass(frozen=True)
class Blur(Band):
    """Convolution with a Gaussian, borders continued symmetrically.

    Args:
        sigma: in entries, above 0.
        radius: of the kernel; None is 3 sigma, rounded up.
    """

    sigma: float = 1.0
    radius: int | None = None

    def __post_init__(self) -> None:
        if self.sigma <= 0.0 or (self.radius is not None and self.radius < 0):
            raise BadInput(f"Blur(sigma={self.sigma}, radius={self.radius}): sigma is above 0, a radius 0 or more")

    def low(self, x: Tensor) -> Tensor:
        radius = math.ceil(3 * self.sigma) if self.radius is None else self.radius
        return gaussian_blur(x, Coef(self.sigma), radius)


def gaussian_blur(x: Tensor, sigma: Coef, radius: int) -> Tensor:
    """(B, C, H, W) convolved with a Gaussian cut off after `radius` entries; sigma may differ from sample to sample."""
    std = sigma.tensor(len(x)).reshape(len(x), -1).amax(1)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / std[:, None]) ** 2)
    taps = [Coef(tap) for tap in (kernel / kernel.sum(1, keepdim=True)).unbind(1)]
    for _ in range(2):
        n = x.shape[-1]
        extended = x[..., mirrored(n, radius, radius)]
        x = combine(*((tap, extended[..., k : k + n]) for k, tap in enumerate(taps))).mT
    return x


def mirrored(n: int, before: int, after: int) -> Tensor:
    """Indices -before .. n + after - 1 of a signal of n entries that its own mirror image continues on both sides."""
    index = torch.arange(-before, n + after) % (2 * n)
    return torch.where(index < n, index, 2 * n - 1 - index)
