"""Measuring pictures with several metrics in one pass, and the table that comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from suffuse.core.errors import BadInput
from suffuse.core.metric import Estimate, Metric

from .pictures import Pictures


@dataclass(frozen=True)
class Report:
    """Figures by name, each with its interval and its protocol."""

    figures: Mapping[str, Estimate]

    def __getitem__(self, name: str) -> Estimate:
        return self.figures[name]

    def record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {name: {**asdict(e), "interval": list(e.interval)} for name, e in self.figures.items()}

    def __str__(self) -> str:
        width = max(map(len, self.figures), default=0)
        return "\n".join(f"{name:<{width}}  {str(e):<28} n={e.n:<6} {e.protocol}" for name, e in self.figures.items())


def evaluate(pictures: Pictures | Iterable[Pictures], metrics: Sequence[Metric], *, batch: int = 64) -> Report:
    """Measure pictures with every metric, each batch once.

    Args:
        pictures: with captions, references and masks as the metrics need them; or batches of them, which may stream.
        metrics: what to measure.
        batch: pictures at a time, where they are given as one.

    Raises:
        BadInput: a metric lacks captions, references or masks, or two metrics give figures of one name.
    """
    states = [metric.init() for metric in metrics]
    for part in pictures.batches(batch) if isinstance(pictures, Pictures) else pictures:
        states = [metric.update(state, part) for metric, state in zip(metrics, states, strict=True)]
    figures: dict[str, Estimate] = {}
    for metric, state in zip(metrics, states, strict=True):
        found = metric.result(state)
        if twice := figures.keys() & found.keys():
            raise BadInput(f"metrics: two give a figure named {min(twice)!r}; measure them in two reports")
        figures.update(found)
    return Report(figures)
