from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_toys import Given, noise, points
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.core.errors import BadInput
from suffuse.evaluation import Pictures, VendiScore


def vendi(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / len(rows))
    values = values[values > 1e-12]
    return np.exp(-(values * np.log(values)).sum())


@given(n=st.integers(3, 20), d=st.integers(2, 8), seed=st.integers(0, 50), cut=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_the_score_is_that_of_the_kernel_matrix_however_it_streams(n, d, seed, cut):
    rows, metric = noise(n, d, seed=seed), VendiScore(Given())
    parts = [metric.measure(Pictures(part[:, :, None, None])) for part in (rows[:cut], rows[cut:])]
    found = metric.result(metric.merge(*parts))["Vendi score"]
    assert found.mean == pytest.approx(vendi(rows.double().numpy()), rel=1e-9) and found.n == n


def test_copies_count_as_one_and_orthogonal_pictures_as_many():
    metric = VendiScore(Given())
    copies = metric.result(metric.measure(Pictures(torch.ones(7, 4, 1, 1))))["Vendi score"]
    apart = metric.result(metric.measure(Pictures(torch.eye(6)[:, :, None, None])))["Vendi score"]
    assert copies.mean == pytest.approx(1.0) and copies.interval == pytest.approx((1.0, 1.0))
    assert apart.mean == pytest.approx(6.0)


def test_one_picture_has_no_interval():
    metric = VendiScore(Given())
    with pytest.raises(BadInput, match="1 pictures"):
        metric.result(metric.measure(points(1, 3)))
