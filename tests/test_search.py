"""Evolution, scores that are computed once, best of many."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffuse.core.errors import BadInput
from suffuse.search import Evolution, Scores, best_of, score_new


class Numbers:
    """Five digits; the score is their sum."""

    def random(self, chance):
        return tuple(chance.randrange(10) for _ in range(5))

    def mutated(self, candidate, probability, chance):
        return tuple(chance.randrange(10) if chance.random() < probability else v for v in candidate)

    def crossed(self, first, second, chance):
        return tuple(chance.choice(pair) for pair in zip(first, second, strict=True))


def test_each_candidate_is_scored_once():
    asked = []
    scores = Scores(lambda v: asked.append(v) or -v)
    assert [scores(v) for v in (3, 1, 3, 2)] == [-3, -1, -3, -2] and asked == [3, 1, 2]
    assert scores.best(2) == [3, 2] and scores.best(1, lambda v: v < 3) == [2]


def test_best_of_many():
    assert best_of(range(10), lambda v: abs(v - 6.4)) == 6
    with pytest.raises(BadInput, match="at least one"):
        best_of([], float)


def test_a_round_scores_as_many_new_ones_as_it_says():
    scores, chance = Scores(sum), Random(0)
    evolution = Evolution(20, 4, 10, 4)
    for i in range(1, 5):
        evolution.round(Numbers(), scores, chance)
        assert len(scores.known) == 20 * i


def test_evolution_is_better_than_chance_and_repeatable():
    def run(evolution):
        scores, chance = Scores(sum), Random(1)
        for _ in range(8):
            evolution.round(Numbers(), scores, chance)
        return scores

    found, chance = run(Evolution(20, 4, 10, 6)), run(Evolution(20, 4, 0, 0))
    assert min(found.known.values()) < min(chance.known.values())
    assert run(Evolution(20, 4, 10, 6)).known == found.known


def test_a_space_that_is_exhausted_ends_the_round():
    scores = Scores(float)
    assert score_new(scores, lambda: 1, 5) == 1
    assert score_new(scores, lambda: None, 5) == 0


def test_numbers_must_fit():
    with pytest.raises(BadInput, match="population can hold"):
        Evolution(10, 5, 8, 3)


@given(st.integers(1, 1000))
def test_every_population_has_its_shares(n):
    evolution = Evolution.of(n)
    assert evolution.population == n and evolution.parents >= 1
    assert evolution.of(50) == Evolution()
