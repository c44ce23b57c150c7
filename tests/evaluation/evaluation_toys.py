"""Feature functions and pictures that the tests of this folder share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from suffuse.evaluation.features import Features
from suffuse.evaluation.pictures import Pictures


@dataclass(frozen=True)
class Projected(Features):
    """Fixed random projections of the pixels."""

    width: int = 5
    seed: int = 0

    @property
    def name(self):
        return f"projection {self.width} {self.seed}"

    def __call__(self, images):
        flat = images.flatten(1)
        weight = torch.randn(flat.shape[1], self.width, generator=torch.Generator().manual_seed(self.seed))
        return flat @ weight / flat.shape[1] ** 0.5


@dataclass(frozen=True)
class Given(Features):
    """The pixels themselves: a picture (B, d, 1, 1) is its own feature."""

    name = "given"

    def __call__(self, images):
        return images.flatten(1)


def noise(n, *shape, seed=0):
    """Standard normal (n, *shape)."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def pictures(n, side=16, seed=0, channels=3):
    """Random pictures in [-1, 1], their references near them, and masks."""
    images = torch.tanh(noise(n, channels, side, side, seed=seed))
    references = (images + 0.2 * noise(n, channels, side, side, seed=seed + 100)).clamp(-1, 1)
    mask = noise(n, 1, side, side, seed=seed + 200) > 0
    return Pictures(images, references=references, mask=mask)


def points(n, d, seed=0, scale=1.0, shift=0.0):
    """Pictures that are points of a Gaussian, for `Given`."""
    return Pictures(noise(n, d, 1, 1, seed=seed) * scale + shift)
