"""How much of a set of pictures is like the reference set, and how much of the reference set it covers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from suffuse.core.errors import BadInput
from suffuse.core.metric import Estimate, Metric
from suffuse.core.registry import method

from . import statistics
from .features import Features
from .pictures import Pictures
from .reference import Reference

CHUNK = 1024
"""Rows of a matrix of distances that are held at once."""


@dataclass(frozen=True)
class _Neighbours(Metric):
    """What the two metrics of this file share: features of every picture, distances to the reference's."""

    features: Features
    reference: Reference
    k: int

    def __post_init__(self) -> None:
        self.reference.require(self.features)
        if self.k < 1:
            raise BadInput(f"k={self.k}: give the number of neighbours, 1 or more")

    def init(self) -> tuple[Tensor, ...]:
        return ()

    def measure(self, batch: Pictures) -> tuple[Tensor, ...]:
        return (self.features(batch.images).double().cpu(),)

    def merge(self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return first + second

    def _sets(self, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        real = self.reference.every(type(self).__name__).double()
        made = torch.cat(state) if state else real[:0]
        if min(len(made), len(real)) <= self.k:
            raise BadInput(
                f"images: {len(made)}, references: {len(real)}; k={self.k} neighbours need more than {self.k}"
            )
        return made, real

    def _protocol(self, made: Tensor) -> str:
        return f"{self.reference.against(len(made))}, k={self.k}"


@method(tags=("metric",))
@dataclass(frozen=True)
class PrecisionRecall(_Neighbours):
    """Precision: share of pictures within reach of a reference; recall: share of references within reach of a picture.

    A set reaches as far from each of its members as that member's k-th nearest neighbour in the set.

    Args:
        features: the feature function.
        reference: what is compared with, made with keep=True in the same features.
        k: neighbour that gives the radius.

    Reference: Kynkaanniemi et al., Improved Precision and Recall Metric, 1904.06991.
    """

    k: int = 3

    def result(self, state: tuple[Tensor, ...]) -> Mapping[str, Estimate]:
        made, real = self._sets(state)
        precise = torch.cat([near.any(1) for near in _reached(made, real, self.k)])
        recalled = torch.cat([near.any(1) for near in _reached(real, made, self.k)])
        protocol = f"{self._protocol(made)}; Wilson interval"
        return {
            "precision": statistics.proportion(precise).under(protocol),
            "recall": statistics.proportion(recalled).under(protocol),
        }


@method(tags=("metric",))
@dataclass(frozen=True)
class DensityCoverage(_Neighbours):
    """Density: references within whose reach a picture lies, over k; coverage: share of references that reach any.

    Unlike precision and recall they take radii from the reference set alone, and so are robust to outliers among the
    pictures; two samples of one law have density 1 on average.

    Args:
        features: the feature function.
        reference: what is compared with, made with keep=True in the same features.
        k: neighbour that gives the radius.

    Reference: Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, 2002.09797.
    """

    k: int = 5

    def result(self, state: tuple[Tensor, ...]) -> Mapping[str, Estimate]:
        made, real = self._sets(state)
        reached = list(_reached(made, real, self.k))
        density = torch.cat([near.sum(1) / self.k for near in reached])
        covered = torch.stack([near.any(0) for near in reached]).any(0)
        protocol = self._protocol(made)
        return {
            "density": statistics.mean(density).under(f"{protocol}; bootstrap over pictures"),
            "coverage": statistics.proportion(covered).under(f"{protocol}; Wilson interval"),
        }


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """(n, m) Euclidean distances, some rows at a time."""
    return (torch.cdist(part, y, compute_mode="donot_use_mm_for_euclid_dist") for part in x.split(CHUNK))


def _reached(x: Tensor, y: Tensor, k: int) -> Iterator[Tensor]:
    """(n, m) whether x_i lies within the distance of y_j to its k-th nearest other row; some rows at a time."""
    radii = torch.cat([d.kthvalue(k + 1, dim=1).values for d in _distances(y, y)])
    return (d <= radii for d in _distances(x, y))
