"""A claim: an experiment that runs a method against its baselines, and the bands that its figures must fall in."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from suffuse.core.bibliography import check_key
from suffuse.core.errors import BadInput, nearest
from suffuse.evaluation.statistics import Estimate

Figure: TypeAlias = Estimate | float
Cell: TypeAlias = str | int | float | bool | Estimate | None

MACHINERY = ("claim", "digits", "evidence", "microworld", "progress")
"""Modules of this package that hold no claims."""


@dataclass(frozen=True)
class Band:
    """Where a figure is expected, both ends included."""

    low: float = -math.inf
    high: float = math.inf

    def holds(self, figure: Figure) -> bool:
        """True where the figure's mean is in the band; NaN never is."""
        return self.low <= _mean(figure) <= self.high

    def holds_firmly(self, figure: Figure) -> bool:
        """True where the whole interval of the figure is in the band."""
        low, high = figure.interval if isinstance(figure, Estimate) else (figure, figure)
        return self.low <= low <= high <= self.high

    def __str__(self) -> str:
        if self.low == -math.inf:
            return f"at most {self.high:g}"
        if self.high == math.inf:
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


def at_most(high: float) -> Band:
    """Band of figures up to `high`."""
    return Band(high=high)


def at_least(low: float) -> Band:
    """Band of figures from `low` on."""
    return Band(low=low)


def between(low: float, high: float) -> Band:
    """Band of figures from `low` to `high`."""
    if low > high:
        raise BadInput(f"low: {low} is above high {high}; give the lower end first")
    return Band(low, high)


@dataclass(frozen=True)
class Table:
    """What an experiment found.

    Args:
        rows: one mapping per arm of the comparison, column -> cell.
        figures: name -> the number that is judged or reported, with its interval where it is a sample's.
    """

    rows: Sequence[Mapping[str, Cell]]
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Claim:
    """An experiment of one paper; its docstring says what is compared, on what, and how it is measured."""

    paper: str
    experiment: Callable[[int], Table]
    expect: Mapping[str, Band]
    budget: float
    fast: bool

    @property
    def topic(self) -> str:
        """Module of the claim below suffuse.claims."""
        return self.experiment.__module__.rpartition(".")[2]

    @property
    def text(self) -> str:
        """What the experiment says of itself."""
        return inspect.getdoc(self.experiment) or ""


@dataclass(frozen=True)
class Outcome:
    """A claim that was run."""

    claim: Claim
    table: Table
    seed: int
    seconds: float

    @property
    def passed(self) -> bool:
        """True where every expected figure is in its band."""
        return all(band.holds(self.table.figures[name]) for name, band in self.claim.expect.items())


_claims: dict[str, Claim] = {}


def claim(
    *, paper: str, expect: Mapping[str, Band], budget: float, fast: bool = False
) -> Callable[[Callable[[int], Table]], Callable[[int], Table]]:
    """Register an experiment, a function of a seed, as the claim of a paper.

    Args:
        paper: key in papers.toml or references.bib.
        expect: figure -> band that it must fall in.
        budget: seconds that it may take on two cores.
        fast: run it with the test suite.
    """
    check_key(paper)

    def register(experiment: Callable[[int], Table]) -> Callable[[int], Table]:
        new = Claim(paper, experiment, dict(expect), budget, fast)
        known = _claims.get(paper)
        if known and known.experiment.__qualname__ != experiment.__qualname__:
            both = f"{known.experiment.__module__}.{known.experiment.__qualname__} and {experiment.__qualname__}"
            raise TypeError(f"{paper}: {both} claim it; a paper has one claim")
        if not expect or not new.text:
            raise TypeError(f"{paper}: a claim needs figures to expect and a docstring that says what is measured")
        _claims[paper] = new
        return experiment

    return register


def all_claims() -> list[Claim]:
    """Every claim, by topic and paper; imports all modules of claims, and with them what they measure."""
    package = importlib.import_module(__package__ or "suffuse.claims")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in MACHINERY:
            importlib.import_module(f"{package.__name__}.{module.name}")
    return sorted(_claims.values(), key=lambda c: (c.topic, c.paper))


def find(paper: str) -> Claim:
    """The claim of a paper.

    Raises:
        BadInput: the key is unknown, or the paper has no claim yet.
    """
    known = {c.paper: c for c in all_claims()}
    if paper not in known:
        check_key(paper)
        raise BadInput(f"paper {paper!r} has no claim yet; {nearest(paper, known) if known else 'no paper has one'}")
    return known[paper]


def reproduce(paper: str, *, seed: int = 0) -> Outcome:
    """Run the claim of a paper.

    Args:
        paper: its key.
        seed: of everything random in the experiment.
    """
    found = find(paper)
    start = time.perf_counter()
    table = found.experiment(seed)
    seconds = time.perf_counter() - start
    absent = [name for name in found.expect if name not in table.figures]
    if absent:
        raise BadInput(f"claim {paper}: expects the figure {absent[0]!r}; {nearest(absent[0], table.figures)}")
    return Outcome(found, table, seed, seconds)


def _mean(figure: Figure) -> float:
    return figure.mean if isinstance(figure, Estimate) else figure
