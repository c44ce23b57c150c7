from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_toys import Given, Projected, noise, points
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel

from suffuse.core.errors import BadInput, Refused
from suffuse.evaluation import FrechetDistance, KernelDistance, Pictures, Reference
from suffuse.evaluation.frechet import frechet
from suffuse.evaluation.moments import Moments


def textbook(x, y):
    x, y = x.double().numpy(), y.double().numpy()
    c, r = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + r - 2 * sqrtm(c @ r).real)


@pytest.mark.parametrize("n", [40, 200])
def test_the_distance_is_the_textbook_formula_with_a_matrix_root(n):
    x, y = noise(n, 6, seed=1) @ noise(6, 6, seed=2) + 0.3, noise(150, 6, seed=3)
    assert frechet(Moments.of(x), Moments.of(y)) == pytest.approx(textbook(x, y), rel=1e-8)
    assert frechet(Moments.of(x), Moments.of(y)) == pytest.approx(frechet(Moments.of(y), Moments.of(x)), rel=1e-8)


def test_equal_sets_are_at_distance_zero_also_with_fewer_pictures_than_features():
    x = noise(5, 20)
    assert abs(frechet(Moments.of(x), Moments.of(x))) < 1e-6


def test_gaussians_of_diagonal_covariance_have_the_closed_form():
    a, b = torch.tensor([1.0, 4.0]).diag().double(), torch.tensor([9.0, 1.0]).diag().double()
    mean = torch.tensor([3.0, 4.0]).double()
    one, other = Moments(11, mean * 0, a * 10), Moments(11, mean, b * 10)
    assert frechet(one, other) == pytest.approx(25 + (3 - 1) ** 2 + (1 - 2) ** 2, rel=1e-12)


@pytest.mark.parametrize("metric", [FrechetDistance, KernelDistance])
@given(cut=st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_two_states_merge_to_that_of_one_pass(metric, cut):
    reference = Reference.of(Given(), points(40, 5, seed=9).images)
    measure, images = metric(Given(), reference), points(30, 5, seed=1).images
    parts = [measure.measure(Pictures(p)) for p in (images[:cut], images[cut:])]
    (one,) = measure.result(measure.merge(*parts)).values()
    (whole,) = measure.result(measure.update(measure.init(), Pictures(images))).values()
    assert one.n == whole.n == 30 and one.protocol == whole.protocol
    assert (one.mean, *one.interval) == pytest.approx((whole.mean, *whole.interval), rel=1e-9, abs=1e-9)


def coverage(metric, truth, runs, n, d, seed=1000):
    inside = 0
    for k in range(runs):
        (found,) = metric.result(metric.measure(points(n, d, seed=seed + k, scale=1.2))).values()
        inside += found.interval[0] <= truth <= found.interval[1]
    return inside / runs


def test_the_interval_of_a_kernel_distance_covers_the_distance_of_the_laws_about_95_times_in_100():
    def exact(scale):  # E k(x, y) of centred Gaussians in one dimension: 1 + 3 E(x^2) E(y^2)
        return 3 * (scale**4 - 2 * scale**2 + 1)

    inside = 0
    for k in range(120):
        reference = Reference.of(Given(), points(60, 1, seed=5000 + k).images)
        inside += coverage(KernelDistance(Given(), reference), exact(1.2), 1, 60, 1, seed=k)
    assert inside / 120 >= 0.88


def test_the_interval_of_a_frechet_distance_covers_its_expectation_about_95_times_in_100():
    reference = Reference("given", Moments(10_001, torch.zeros(3).double(), torch.eye(3).double() * 10_000))
    metric = FrechetDistance(Given(), reference)
    values = [frechet(reference.moments, Moments.of(noise(60, 3, seed=k) * 1.2)) for k in range(400)]
    assert 0.87 <= coverage(metric, np.mean(values), 120, 60, 3) <= 1.0


def mmd(x, y):
    n, m = len(x), len(y)
    kxx, kyy, kxy = (polynomial_kernel(a, b, degree=3, coef0=1) for a, b in ((x, x), (y, y), (x, y)))
    return (kxx.sum() - np.trace(kxx)) / (n * (n - 1)) + (kyy.sum() - np.trace(kyy)) / (m * (m - 1)) - 2 * kxy.mean()


def test_the_kernel_distance_is_the_unbiased_estimator_and_its_jackknife_leaves_out_each_picture():
    x, y = noise(12, 4, seed=1), noise(15, 4, seed=2) + 0.2
    metric = KernelDistance(Given(), Reference.of(Given(), y[:, :, None, None]))
    found = metric.result(metric.measure(Pictures(x[:, :, None, None])))["kernel distance"]
    x, y = x.double().numpy(), y.double().numpy()
    assert found.mean == pytest.approx(mmd(x, y), rel=1e-10)
    left = np.array([mmd(np.delete(x, i, 0), y) for i in range(12)])
    right = np.array([mmd(x, np.delete(y, i, 0)) for i in range(15)])
    spread = 2.200985 * np.sqrt(11 * left.var() + 14 * right.var())
    assert found.interval[1] - found.mean == pytest.approx(spread, rel=1e-5)


def test_the_kernel_distance_of_two_samples_of_one_law_is_about_zero_and_grows_with_a_shift():
    reference = Reference.of(Given(), points(300, 3, seed=1).images)
    metric = KernelDistance(Given(), reference)
    same = metric.result(metric.measure(points(300, 3, seed=2)))["kernel distance"]
    moved = metric.result(metric.measure(points(300, 3, seed=2, shift=0.5)))["kernel distance"]
    assert same.interval[0] < 0 < same.interval[1] < moved.interval[0]


def test_a_reference_in_other_features_is_refused_and_so_are_too_few_pictures():
    reference = Reference.of(Projected(seed=1), torch.tanh(noise(9, 3, 4, 4)), keep=False)
    with pytest.raises(Refused, match="projection 5 1, not in projection 5 0"):
        FrechetDistance(Projected(), reference)
    metric = KernelDistance(Projected(seed=1), reference)
    with pytest.raises(Refused, match="keep=True"):
        metric.result(metric.measure(Pictures(torch.tanh(noise(4, 3, 4, 4)))))
    with pytest.raises(BadInput, match="images: 1 pictures"):
        frechet_ = FrechetDistance(Projected(seed=1), reference)
        frechet_.result(frechet_.measure(Pictures(torch.tanh(noise(1, 3, 4, 4)))))
    with pytest.raises(BadInput, match="blocks=1"):
        FrechetDistance(Projected(seed=1), reference, blocks=1)
