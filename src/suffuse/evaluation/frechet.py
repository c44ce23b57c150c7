"""How far a set of pictures is from a reference set: Frechet distance and kernel distance, in any features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from suffuse.core.errors import BadInput
from suffuse.core.metric import Estimate, Metric
from suffuse.core.registry import method

from . import statistics
from .features import Features
from .moments import Blocks, Moments
from .pictures import Pictures
from .reference import Reference

CHUNK = 2048
"""Rows of a kernel matrix that are held at once."""


@method(tags=("metric",))
@dataclass(frozen=True)
class FrechetDistance(Metric):
    """|m - m_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)): distance of the Gaussians that fit both sets of features.

    With `InceptionFeatures` it is the FID. It falls as n grows: compare only figures of equal n.

    Args:
        features: the feature function.
        reference: what is compared with, measured in the same features; the interval takes it as given.
        blocks: that the jackknife of the interval leaves out in turn.

    Reference: Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 1706.08500.

    Differs from the paper: the trace of the root is the sum of the roots of the eigenvalues of C_r^(1/2) C C_r^(1/2),
    which is symmetric, so that no complex root of a rounded matrix has to be discarded.
    """

    features: Features
    reference: Reference
    blocks: int = 10

    def __post_init__(self) -> None:
        self.reference.require(self.features)
        if self.blocks < 2:
            raise BadInput(f"blocks={self.blocks}: a jackknife leaves out one of several; give 2 or more")

    def init(self) -> Blocks:
        return Blocks.empty(self.blocks)

    def measure(self, batch: Pictures) -> Blocks:
        return Blocks.of(self.features(batch.images).cpu(), self.blocks)

    def merge(self, first: Blocks, second: Blocks) -> Blocks:
        return first.merge(second)

    def result(self, state: Blocks) -> Mapping[str, Estimate]:
        without = state.without()
        if len(without) < 2 or any(part.n < 2 for part in without):
            raise BadInput(f"images: {state.n} pictures; a covariance and its jackknife need 3 or more")
        near = _Root(self.reference.moments)
        value = near.distance(state.whole)
        estimate = statistics.jackknife(value, [near.distance(part) for part in without], n=state.n)
        protocol = f"{self.reference.against(state.n)}; jackknife over {len(without)} blocks"
        return {"Frechet distance": estimate.under(protocol)}


class _Root:
    """Frechet distances to one Gaussian, the root of whose covariance is computed once."""

    def __init__(self, moments: Moments):
        self.mean, covariance = moments.mean, moments.covariance
        values, vectors = torch.linalg.eigh(covariance)
        self.root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self.trace = covariance.trace()

    def distance(self, other: Moments) -> float:
        c = other.covariance
        shared = torch.linalg.eigvalsh(self.root @ c @ self.root).clamp(min=0).sqrt().sum()
        return ((self.mean - other.mean).square().sum() + self.trace + c.trace() - 2 * shared).item()


def frechet(first: Moments, second: Moments) -> float:
    """Frechet distance of the Gaussians with these moments."""
    return _Root(first).distance(second)


@method(tags=("metric",))
@dataclass(frozen=True)
class KernelDistance(Metric):
    """MMD^2 with k(x, y) = (x.y / d + 1)^3, unbiased: mean k(x, x') + mean k(y, y') - 2 mean k(x, y), x != x', y != y'.

    With `InceptionFeatures` it is the KID. Its mean does not depend on n, and it may be negative.

    Args:
        features: the feature function.
        reference: what is compared with, made with keep=True in the same features.

    Reference: Binkowski et al., Demystifying MMD GANs, 1801.01401.

    Differs from the paper: all pairs once, with the jackknife's interval, instead of random subsets of 1000.
    """

    features: Features
    reference: Reference

    def __post_init__(self) -> None:
        self.reference.require(self.features)

    def init(self) -> tuple[Tensor, ...]:
        return ()

    def measure(self, batch: Pictures) -> tuple[Tensor, ...]:
        return (self.features(batch.images).float().cpu(),)

    def merge(self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return first + second

    def result(self, state: tuple[Tensor, ...]) -> Mapping[str, Estimate]:
        n, y = sum(map(len, state)), self.reference.every("the kernel distance")
        if min(n, len(y)) < 3:
            raise BadInput(f"images: {n}, references: {len(y)}; the jackknife of a kernel distance needs 3 of each")
        x, m = torch.cat(state), len(y)
        own, theirs = _sums(x, x) - _diagonal(x), _sums(y, y) - _diagonal(y)
        cross, back = _sums(x, y), _sums(y, x)
        within, across = own.sum() / (n * (n - 1)), cross.sum() / (n * m)
        there = theirs.sum() / (m * (m - 1))
        less_x = (own.sum() - 2 * own) / ((n - 1) * (n - 2)) + there - 2 * (cross.sum() - cross) / ((n - 1) * m)
        less_y = within + (theirs.sum() - 2 * theirs) / ((m - 1) * (m - 2)) - 2 * (cross.sum() - back) / (n * (m - 1))
        estimate = statistics.jackknife((within + there - 2 * across).item(), less_x, less_y, n=n)
        return {"kernel distance": estimate.under(f"{self.reference.against(n)}; all pairs, jackknife over both sets")}


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """(n,) float64: sum over y of k(x_i, y)."""
    y = y.double()
    return torch.cat([(part.double() @ y.T / y.shape[1] + 1).pow(3).sum(1) for part in x.split(CHUNK)])


def _diagonal(x: Tensor) -> Tensor:
    """(n,) float64: k(x_i, x_i)."""
    return (x.double().square().sum(1) / x.shape[1] + 1).pow(3)
