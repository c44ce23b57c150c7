"""Search among discrete candidates: scores that are computed once, the best of many, evolution."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

from .core.errors import BadInput

C = TypeVar("C", bound=Hashable)

TRIES = 10
"""Attempts at each new candidate before it is given up because all that come are known already."""


class Scores(Generic[C]):
    """Scores of candidates, lower is better; each candidate is scored once.

    Args:
        function: what scores; the same candidate must always have the same score, so fix its seeds.
    """

    def __init__(self, function: Callable[[C], float]):
        self.function = function
        self.known: dict[C, float] = {}

    def __call__(self, candidate: C) -> float:
        if candidate not in self.known:
            self.known[candidate] = float(self.function(candidate))
        return self.known[candidate]

    def best(self, n: int = 1, among: Callable[[C], bool] = lambda candidate: True) -> list[C]:
        """The n best known ones for which `among` holds, best first; of equal ones those that were scored first."""
        return sorted(filter(among, self.known), key=self.known.__getitem__)[:n]


def best_of(candidates: Iterable[C], function: Callable[[C], float]) -> C:
    """The candidate with the lowest score: best of N."""
    scores = Scores(function)
    for candidate in candidates:
        scores(candidate)
    if not scores.known:
        raise BadInput("candidates: there are none; give at least one")
    return scores.best()[0]


class Space(Protocol[C]):
    """What evolution needs to know of candidates; each may answer None where chance gave no valid one."""

    def random(self, chance: Random) -> C | None:
        """Any candidate."""

    def mutated(self, candidate: C, probability: float, chance: Random) -> C | None:
        """The candidate with each of its parts changed with this probability."""

    def crossed(self, first: C, second: C, chance: Random) -> C | None:
        """A candidate with each part of one of the two."""


@dataclass(frozen=True)
class Evolution:
    """Rounds of new candidates: mutations and crossovers of the best known, and random ones.

    Args:
        population: new candidates in a round.
        parents: how many of the best are mutated and crossed.
        mutations, crossovers: of the new candidates; the rest is random.
        probability: of each part of a candidate to mutate.

    Raises:
        BadInput: numbers that do not fit together.
    """

    population: int = 50
    parents: int = 10
    mutations: int = 25
    crossovers: int = 10
    probability: float = 0.25

    def __post_init__(self) -> None:
        if min(self.population, self.parents) < 1 or self.mutations + self.crossovers > self.population:
            raise BadInput(
                f"{self}: give at least one parent, and mutations and crossovers that the population can hold"
            )

    @classmethod
    def of(cls, population: int) -> Evolution:
        """The usual shares of another population: a fifth parents, half mutations, a fifth crossovers."""
        return cls(population, max(population // 5, 1), population // 2, population // 5)

    def round(self, space: Space[C], scores: Scores[C], chance: Random) -> None:
        """Score one round of candidates that were not known before."""
        parents = scores.best(self.parents)
        mutate = lambda: space.mutated(chance.choice(parents), self.probability, chance)  # noqa: E731
        cross = lambda: space.crossed(chance.choice(parents), chance.choice(parents), chance)  # noqa: E731
        made = score_new(scores, mutate, self.mutations) if parents else 0
        made += score_new(scores, cross, self.crossovers) if parents else 0
        score_new(scores, lambda: space.random(chance), self.population - made)


def score_new(scores: Scores[C], make: Callable[[], C | None], count: int) -> int:
    """Score so many candidates that are not known yet; fewer where `make` hardly finds any. Returns how many."""
    made = 0
    for _ in range(TRIES * count):
        if made == count:
            break
        candidate = make()
        if candidate is not None and candidate not in scores.known:
            scores(candidate)
            made += 1
    return made
