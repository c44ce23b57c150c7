"""What a measurement is: a monoid, so that a stream, several workers and one pass give the same figure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Args:
        mean: the estimate.
        interval: its 95 % interval, (low, high).
        n: number of samples that it rests on.
        protocol: how it was measured (against what, at what size, with which weights); "" where that is said elsewhere.
    """

    mean: float
    interval: tuple[float, float]
    n: int
    protocol: str = ""

    def under(self, protocol: str) -> Estimate:
        """The same number with its protocol."""
        return replace(self, protocol=protocol)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.mean:.4g} [{low:.4g}, {high:.4g}]"


class Metric(ABC):
    """Figures of a set of samples. A frozen dataclass; what it has seen so far is a state that the caller holds.

    `merge` is associative with `init()` as its neutral element, and the state of two batches is that of their
    concatenation. So `update` is merging with the state of one batch, and workers may measure apart.
    """

    @abstractmethod
    def init(self) -> Any:
        """The state of no samples."""

    @abstractmethod
    def measure(self, batch: Any) -> Any:
        """The state of one batch."""

    @abstractmethod
    def merge(self, first: Any, second: Any) -> Any:
        """The state of the samples of both, in this order."""

    @abstractmethod
    def result(self, state: Any) -> Mapping[str, Estimate]:
        """The figures of what was seen, by name."""

    def update(self, state: Any, batch: Any) -> Any:
        """The state after one more batch."""
        return self.merge(state, self.measure(batch))
