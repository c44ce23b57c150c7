"""Comparing adapters as LyCORIS does: trials over method, rank, rate and epochs, and tables of mean ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from ..core.errors import BadInput, nearest
from ..core.expression import unparse
from ..core.patch import Adapter
from .delta import Delta

Figures: TypeAlias = Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One way to train an adapter.

    Args:
        delta: what is trained.
        lr: learning rate.
        epochs: passes over the data.
    """

    delta: Delta
    lr: float
    epochs: int

    @property
    def method(self) -> str:
        """Name of the class."""
        return type(self.delta).__name__

    def __str__(self) -> str:
        return f"{unparse(self.delta)}, lr {self.lr:g}, {self.epochs} epochs"


def grid(
    deltas: Sequence[Delta], lrs: Sequence[float], epochs: Sequence[int] = (1,), ranks: Sequence[int] = ()
) -> Iterator[Trial]:
    """Every combination; a method without a rank counts once for all ranks."""
    for delta, lr, length in itertools.product(deltas, lrs, epochs):
        changes: list[dict[str, Any]] = [{"rank": r} for r in ranks if "rank" in {f.name for f in fields(delta)}]
        ranked: list[Delta] = [replace(delta, **change) for change in changes]
        for one in ranked or [delta]:
            yield Trial(one, lr, length)


@dataclass(frozen=True)
class AdapterReport:
    """Figures of trained adapters, and how the adapters rank.

    LyCORIS measures fidelity to the references, agreement with the text, diversity, preservation of the base model and
    quality; any figures will do, and those that `better` does not name are shown and not ranked.

    Args:
        rows: trial -> figures.
        better: figure -> +1 where more is better, -1 where less is.

    Reference: Yeh et al., Navigating Text-To-Image Customization, 2309.14859.
    """

    rows: Mapping[Trial, Figures]
    better: Mapping[str, int]

    def __post_init__(self) -> None:
        for figures in self.rows.values():
            for name in self.better:
                if name not in figures:
                    raise BadInput(f"better: {name!r} is no figure of every trial; {nearest(name, figures)}")

    @staticmethod
    def run(trials: Sequence[Trial], train: Callable[[Trial], Figures], better: Mapping[str, int]) -> AdapterReport:
        """Train and measure every trial."""
        return AdapterReport({trial: train(trial) for trial in trials}, better)

    def ranks(self) -> dict[Trial, dict[str, float]]:
        """Rank of each trial in each figure, 1 the best; equals share their mean rank."""
        found: dict[Trial, dict[str, float]] = {trial: {} for trial in self.rows}
        for name, sign in self.better.items():
            values = {trial: -sign * figures[name] for trial, figures in self.rows.items()}
            for trial, value in values.items():
                below = sum(v < value for v in values.values())
                found[trial][name] = below + (sum(v == value for v in values.values()) + 1) / 2
        return found

    def aggregated(self, by: Callable[[Trial], str] = lambda trial: trial.method) -> list[dict[str, float | str]]:
        """Mean ranks of groups of trials, the best first; "mean" is over the figures."""
        groups: dict[str, list[dict[str, float]]] = {}
        for trial, ranks in self.ranks().items():
            groups.setdefault(by(trial), []).append(ranks)
        table: list[dict[str, float | str]] = []
        for group, ranks_of in groups.items():
            means = {name: sum(r[name] for r in ranks_of) / len(ranks_of) for name in self.better}
            table.append({"group": group, **means, "mean": sum(means.values()) / len(means)})
        return sorted(table, key=lambda row: float(row["mean"]))


def size(adapter: Adapter) -> dict[str, float]:
    """How many numbers an adapter has, and the megabytes of its file in half precision."""
    numbers = sum(p.numel() for p in adapter.parameters())
    return {"numbers": float(numbers), "MB": 2 * numbers / 1e6}
