"""Candidates of schedules: times, and layers skipped at each, within a budget of layers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

Candidate: TypeAlias = tuple[tuple[int, frozenset[int]], ...]
"""(timestep, skipped layers) of each step, from noise to data. Timestep k stands at time (k + 1) / N."""


@dataclass(frozen=True)
class ScheduleSpace:
    """Schedules that cost at most `budget` layers.

    Args:
        N: training timesteps to choose from.
        end: time at which a run ends.
        layers: of the network.
        skippable: how many of them may be skipped; they are numbered.
        share: of all layers that may be skipped at one step.
        budget: layers that a sample may cost.
    """

    N: int
    end: float
    layers: int
    skippable: int
    share: float
    budget: float

    @property
    def most(self) -> int:
        """Layers that may be skipped at one step."""
        return min(int(self.share * self.layers + 1e-9), self.skippable)

    @property
    def timesteps(self) -> range:
        """Those above the end."""
        return range(int(self.end * self.N + 1e-9), self.N)

    def times(self, candidate: Candidate) -> tuple[float, ...]:
        """Times of a candidate and the end."""
        return (*(round((k + 1) / self.N, 10) for k, _ in candidate), round(self.end, 10))

    def of(self, times: list[float]) -> Candidate:
        """The candidate with these times, to the nearest timestep, that skips nothing."""
        return _falling({(max(round(t * self.N) - 1, self.timesteps.start), frozenset()) for t in times})

    def cost(self, candidate: Candidate) -> int:
        """Layers that a sample costs."""
        return sum(self.layers - len(skip) for _, skip in candidate)

    def holds(self, candidate: Candidate) -> bool:
        """Whether it is within the budget."""
        return self.cost(candidate) <= self.budget + 1e-9

    def random(self, chance: Random) -> Candidate | None:
        """Steps with random skipped layers until the budget is spent, at random times."""
        skips: list[frozenset[int]] = []
        left = self.budget + 1e-9
        while self.layers - self.most <= left and len(skips) < len(self.timesteps):
            count = chance.randint(max(math.ceil(self.layers - left), 0), self.most)
            skips.append(frozenset(chance.sample(range(self.skippable), count)))
            left -= self.layers - count
        return _falling(zip(chance.sample(self.timesteps, len(skips)), skips, strict=True)) if skips else None

    def mutated(self, candidate: Candidate, probability: float, chance: Random) -> Candidate | None:
        """Each timestep, and each skipped layer, replaced by an unused one with this probability; steps without skipped
        layers get some with this probability.
        """
        free = [k for k in self.timesteps if k not in {used for used, _ in candidate}]
        changed: list[tuple[int, frozenset[int]]] = []
        for k, skip in candidate:
            if free and chance.random() < probability:
                k = free.pop(chance.randrange(len(free)))
            if not skip and self.most and chance.random() < probability:
                skip = frozenset(chance.sample(range(self.skippable), chance.randint(1, self.most)))
            elif self.most:
                skip = self._replaced(skip, probability, chance)
            changed.append((k, skip))
        return self._within(changed, chance)

    def crossed(self, first: Candidate, second: Candidate, chance: Random) -> Candidate | None:
        """Each step from one of the two; the further steps of the longer one."""
        longer = max(first, second, key=len)
        steps = [chance.choice(pair) for pair in zip(first, second, strict=False)]
        steps += longer[len(steps) :]
        return self._within(steps, chance) if len({k for k, _ in steps}) == len(steps) else None

    def _replaced(self, skip: frozenset[int], probability: float, chance: Random) -> frozenset[int]:
        kept = [layer for layer in sorted(skip) if chance.random() >= probability]
        others = [layer for layer in range(self.skippable) if layer not in skip]
        return frozenset(kept + chance.sample(others, min(len(skip) - len(kept), len(others))))

    def _within(self, steps: list[tuple[int, frozenset[int]]], chance: Random) -> Candidate | None:
        """Skip further random layers until the budget holds; None where no more may be skipped."""
        while not self.holds(tuple(steps)):
            room = [i for i, (_, skip) in enumerate(steps) if len(skip) < self.most]
            if not room:
                return None
            i = chance.choice(room)
            k, skip = steps[i]
            steps[i] = k, skip | {chance.choice([n for n in range(self.skippable) if n not in skip])}
        return _falling(steps)


def _falling(steps: Iterable[tuple[int, frozenset[int]]]) -> Candidate:
    return tuple(sorted(steps, key=lambda step: -step[0]))
