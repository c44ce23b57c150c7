from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_toys import Given, noise, points
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from suffuse.core.errors import BadInput
from suffuse.evaluation import DensityCoverage, Pictures, PrecisionRecall, Reference, precision_recall


def radii(x, k):
    return NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, -1]


def distances(x, y):
    return np.linalg.norm(x[:, None] - y[None], axis=-1)


@given(
    n=st.integers(6, 30), m=st.integers(6, 30), seed=st.integers(0, 99), k=st.integers(1, 5), chunk=st.integers(1, 9)
)
@settings(max_examples=30, deadline=None)
def test_all_four_figures_are_those_of_their_definitions(n, m, seed, k, chunk):
    made, real = noise(n, 3, seed=seed), noise(m, 3, seed=seed + 1000) * 1.3
    reference = Reference.of(Given(), real[:, :, None, None])
    old, precision_recall.CHUNK = precision_recall.CHUNK, chunk
    try:
        found = {}
        for metric in (PrecisionRecall(Given(), reference, k), DensityCoverage(Given(), reference, k)):
            parts = [metric.measure(Pictures(p[:, :, None, None])) for p in (made[:4], made[4:])]
            found |= metric.result(metric.merge(*parts))
    finally:
        precision_recall.CHUNK = old
    x, y = made.double().numpy(), real.double().numpy()
    within = distances(x, y) <= radii(y, k)[None]
    assert found["precision"].mean == pytest.approx(within.any(1).mean())
    assert found["recall"].mean == pytest.approx((distances(y, x) <= radii(x, k)[None]).any(1).mean())
    assert found["density"].mean == pytest.approx(within.sum(1).mean() / k)
    assert found["coverage"].mean == pytest.approx(within.any(0).mean())
    assert (found["precision"].n, found["recall"].n, found["density"].n, found["coverage"].n) == (n, m, n, m)


def test_a_shrunken_law_is_precise_and_lacks_recall_and_a_widened_one_the_reverse():
    reference = Reference.of(Given(), points(300, 2, seed=1).images)
    metric = PrecisionRecall(Given(), reference)
    small = metric.result(metric.measure(points(300, 2, seed=2, scale=0.3)))
    large = metric.result(metric.measure(points(300, 2, seed=2, scale=4.0)))
    assert small["precision"].interval[0] > 0.9 > 0.6 > small["recall"].interval[1]
    assert large["recall"].interval[0] > 0.9 > 0.6 > large["precision"].interval[1]


def test_two_samples_of_one_law_have_density_one():
    metric = DensityCoverage(Given(), Reference.of(Given(), points(400, 3, seed=1).images))
    low, high = metric.result(metric.measure(points(400, 3, seed=2)))["density"].interval
    assert low < 1 < high


def test_too_few_pictures_are_refused():
    metric = PrecisionRecall(Given(), Reference.of(Given(), torch.zeros(9, 2, 1, 1)))
    with pytest.raises(BadInput, match="images: 3, references: 9; k=3"):
        metric.result(metric.measure(points(3, 2)))
    with pytest.raises(BadInput, match="k=0"):
        PrecisionRecall(Given(), metric.reference, 0)
