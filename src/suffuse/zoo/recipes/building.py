"""What every recipe shares: a run that reports, can be stopped and goes on; what it made; how that is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...core.metric import Estimate
from ...training import Log, Trainer


@dataclass(frozen=True)
class Progress:
    """How far the training of one network is.

    Args:
        part: which network.
        steps: length of its training.
        log: of the step just made.
    """

    part: str
    steps: int
    log: Log

    def __str__(self) -> str:
        return f"{self.part}: of {self.steps} {self.log}"


Report = Callable[[Progress], None]
"""Called after every step; an exception that it raises stops the training once the step is saved."""


@dataclass(frozen=True)
class Built:
    """What a recipe made.

    Args:
        folder: of the finished model.
        steps: of its training.
        seconds: that the training took, over all resumptions.
    """

    folder: Path
    steps: int
    seconds: float


def train(
    run: Trainer,
    source: Any,
    steps: int,
    part: str,
    folder: Path,
    *,
    shard: tuple[int, int] = (0, 1),
    save_every: int = 500,
    report: Report = print,
) -> None:
    """Train to `steps`; checkpoints are in `folder` and are resumed."""
    # Closed here and not when it is collected: then the checkpoint is written before the exception goes on.
    with closing(run.fit(source, steps, shard=shard, folder=folder, save_every=save_every)) as logs:
        for log in logs:
            report(Progress(part, steps, log))


class Build(Protocol):
    """A recipe: trains what is missing in a folder and resumes what was begun."""

    def __call__(
        self,
        folder: str | Path,
        steps: int = ...,
        *,
        device: str = ...,
        seed: int = ...,
        shard: tuple[int, int] = ...,
        report: Report = ...,
    ) -> Built:
        """What was made in `folder`."""


@dataclass(frozen=True)
class Figure:
    """A measured number as cards say it: "96.1 % [93.0, 97.9], n = 205".

    Args:
        estimate: in its unit.
        unit: "%" or "dB".
    """

    estimate: Estimate
    unit: str

    @staticmethod
    def share(estimate: Estimate) -> Figure:
        """Of a share between 0 and 1."""
        low, high = (100 * bound for bound in estimate.interval)
        return Figure(Estimate(100 * estimate.mean, (low, high), estimate.n), "%")

    @staticmethod
    def read(text: str) -> Figure:
        """What `str` wrote; a number without an interval is its own."""
        found = FIGURE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no figure of a card")
        mean = float(found[1])
        interval = (float(found[3]), float(found[4])) if found[3] else (mean, mean)
        return Figure(Estimate(mean, interval, int(found[5] or 0)), found[2])

    def agrees(self, other: Figure) -> bool:
        """True where the intervals overlap, at the precision at which cards say them."""
        (low, high), (below, above) = self.estimate.interval, other.estimate.interval
        return self.unit == other.unit and round(low, 1) <= round(above, 1) and round(below, 1) <= round(high, 1)

    def __str__(self) -> str:
        low, high = self.estimate.interval
        return f"{self.estimate.mean:.1f} {self.unit} [{low:.1f}, {high:.1f}], n = {self.estimate.n}"


FIGURE = re.compile(r"(-?[\d.]+) (%|dB)(?: \[(-?[\d.]+), (-?[\d.]+)\], n = (\d+))?")

Figures = Mapping[str, Figure]


@dataclass(frozen=True)
class Recipe:
    """How a bundled model, or a part of one, is built and measured.

    Args:
        summary: one line.
        build: trains it.
        steps: of its training, where nothing else is said.
        defaults: how the model is best run; empty for parts.
        measure: figures of the model in a folder, of all samples of its protocol or of the first so many; None for
            what is measured as a part of others.
        protocol: how they are measured.
    """

    summary: str
    build: Build
    steps: int
    defaults: Mapping[str, Any]
    measure: Callable[[Path, int | None], Figures] | None = None
    protocol: str = ""
