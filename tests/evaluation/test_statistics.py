from __future__ import annotations

import numpy as np
import pytest

from suffuse.core.errors import BadInput
from suffuse.evaluation.statistics import (
    Estimate,
    bootstrap,
    difference,
    jackknife,
    mean,
    median_ratio,
    proportion,
    ratio,
)


def coverage(estimate, truth, draw, runs=200):
    rng = np.random.default_rng(1)
    inside = [low <= truth <= high for low, high in (estimate(*draw(rng)).interval for _ in range(runs))]
    return np.mean(inside)


def test_the_interval_of_a_mean_covers_the_truth_about_95_times_in_100():
    def estimate(values):
        return bootstrap(np.mean, values, resamples=300)

    assert 0.88 <= coverage(estimate, 2.0, lambda rng: (rng.normal(2.0, 1.0, 60),)) <= 0.99


def test_pairing_removes_what_the_samples_share():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=200) * 10
    a, b = shared + 0.1 + rng.normal(size=200) * 0.05, shared + rng.normal(size=200) * 0.05
    paired = difference(a, b)
    assert paired.interval[0] > 0.08 and paired.interval[1] < 0.12 and paired.n == 200
    low, high = mean(a).interval
    assert high - low > 2


def test_the_ratio_is_of_means_and_the_median_ratio_is_of_pairs():
    a, b = [1.0, 3.0, 8.0], [1.0, 1.0, 4.0]
    assert ratio(a, b).mean == pytest.approx(2.0)
    assert median_ratio(a, b).mean == pytest.approx(2.0)
    assert median_ratio([1, 1, 100], [1, 1, 1]).mean == 1.0
    assert ratio([2, 4, 6], [1, 2, 3]).interval == pytest.approx((2.0, 2.0))


def test_an_interval_is_reproducible():
    values = np.random.default_rng(0).normal(size=30)
    assert mean(values) == mean(values)


def test_a_statistic_of_rows():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    estimate = bootstrap(lambda r: np.linalg.norm(r.mean(0)), rows, resamples=100)
    assert estimate.n == 50 and estimate.interval[0] < estimate.interval[1]


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    # Wilson's score interval by its closed formula with z = 1.959964.
    [(85, 100, 0.76716, 0.90694), (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0)],
)
def test_wilson(hits, total, low, high):
    estimate = proportion([True] * hits + [False] * (total - hits))
    assert estimate.mean == hits / total and estimate.n == total
    assert estimate.interval == pytest.approx((low, high), abs=1e-5)


def test_an_estimate_prints_with_its_interval():
    assert str(Estimate(0.58312, (0.5612, 0.605), 100)) == "0.5831 [0.5612, 0.605]"


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [[1.0, 2.0]], 3.0])
def test_too_few_or_wrong_values_are_refused(values):
    with pytest.raises(BadInput, match="values|paired"):
        mean(values)


def test_unpaired_arrays_and_wrong_hits_are_refused():
    with pytest.raises(BadInput, match="arrays of .3, 2. samples"):
        difference([1, 2, 3], [1, 2])
    for hits in ([], [2], [0.5]):
        with pytest.raises(BadInput, match="hits"):
            proportion(hits)


def test_the_jackknife_of_a_mean_is_its_student_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, 20)
    found = jackknife(values.mean(), [np.delete(values, i).mean() for i in range(20)], n=20)
    spread = 2.093024 * values.std(ddof=1) / np.sqrt(20)
    assert found.n == 20 and found.interval == pytest.approx((values.mean() - spread, values.mean() + spread), rel=1e-6)
    with pytest.raises(BadInput, match="1 blocks"):
        jackknife(1.0, [1.0], n=5)
