"""Means and covariances of streams of vectors, in float64, whole and with parts left out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean (d,) and scatter sum_i (x_i - mean)(x_i - mean)^T (d, d) of vectors; empty until the first."""

    n: int = 0
    mean: Tensor = torch.zeros(0, dtype=torch.float64)
    scatter: Tensor = torch.zeros(0, 0, dtype=torch.float64)

    @staticmethod
    def of(rows: Tensor) -> Moments:
        """Moments of (n, d)."""
        if not len(rows):
            return Moments()
        mean = rows.double().mean(0)
        centred = rows.double() - mean
        return Moments(len(rows), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Moments of both together (Chan et al., 1979)."""
        if not self.n or not other.n:
            return self if self.n else other
        n, d = self.n + other.n, other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(d, d) * (self.n * other.n / n)
        return Moments(n, self.mean + d * (other.n / n), scatter)

    @property
    def covariance(self) -> Tensor:
        """(d, d), with n - 1 in the denominator."""
        return self.scatter / (self.n - 1)

    @property
    def second(self) -> Tensor:
        """(d, d) mean of x x^T."""
        return self.scatter / self.n + torch.outer(self.mean, self.mean)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Moments of a stream, dealt to k blocks in turn: the parts that a jackknife leaves out."""

    parts: tuple[Moments, ...]

    @staticmethod
    def empty(k: int) -> Blocks:
        """Of no vectors."""
        return Blocks((Moments(),) * k)

    @staticmethod
    def of(rows: Tensor, k: int) -> Blocks:
        """Of (n, d)."""
        return Blocks(tuple(Moments.of(rows[i::k]) for i in range(k)))

    @property
    def n(self) -> int:
        """Number of vectors."""
        return sum(part.n for part in self.parts)

    def merge(self, other: Blocks) -> Blocks:
        """Blocks of this stream continued by the other: vector i stays in block i mod k."""
        k = len(self.parts)
        return Blocks(tuple(part.merge(other.parts[(i - self.n) % k]) for i, part in enumerate(self.parts)))

    @property
    def whole(self) -> Moments:
        """Of all vectors."""
        return reduce(Moments.merge, self.parts)

    def without(self) -> list[Moments]:
        """Of all vectors but those of one block, for every block that holds any."""
        held = [part for part in self.parts if part.n]
        return [reduce(Moments.merge, [p for p in held if p is not part], Moments()) for part in held]
