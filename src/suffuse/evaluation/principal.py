"""Features along the axes on which a set of pictures differs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from .features import Features


@dataclass(frozen=True, eq=False)
class PrincipalFeatures(Features):
    """Other features, centred on a set of pictures and in their first principal axes.

    Features that are never negative all point one way; centred ones of unlike pictures are about orthogonal.

    Args:
        of: the features.
        mean: (d,) of the set.
        axes: (d, k).
    """

    of: Features
    mean: Tensor
    axes: Tensor

    @staticmethod
    def fit(of: Features, images: Tensor, k: int) -> PrincipalFeatures:
        """The first k axes of images (N, 3, H, W), N > k."""
        found = of(images).double()
        mean = found.mean(0)
        axes = torch.linalg.svd(found - mean, full_matrices=False).Vh[:k].mT
        signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        return PrincipalFeatures(of, mean.float(), (signs * axes).float())

    @property
    def name(self) -> str:
        digest = hashlib.sha256(self.mean.numpy().tobytes() + self.axes.contiguous().numpy().tobytes()).hexdigest()[:8]
        return f"{self.of.name}, {self.axes.shape[1]} principal axes {digest}"

    def __call__(self, images: Tensor) -> Tensor:
        return (self.of(images) - self.mean) @ self.axes
