"""Estimates with intervals: paired bootstrap for means, differences and ratios, Wilson's interval for proportions,
the jackknife for figures of a whole set.

Two arms of a comparison are measured on the same samples and resampled together, so that what the samples share
cancels. Every interval covers 95 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from suffuse.core.errors import BadInput
from suffuse.core.metric import Estimate

LEVEL = 0.95


def bootstrap(statistic: Callable[..., Any], *paired: ArrayLike, resamples: int = 2000, seed: int = 0) -> Estimate:
    """A statistic with its percentile bootstrap interval; sample i of every array is drawn together.

    Args:
        statistic: function of as many arrays as are given, which returns a number.
        paired: arrays whose first axis is the sample.
        resamples: number of bootstrap draws.
        seed: of the draws, so that the interval is reproducible.

    Raises:
        BadInput: fewer than two samples, or arrays of different length.
    """
    arrays = [np.asarray(p) for p in paired]
    counts = [len(a) if a.ndim else 0 for a in arrays]
    if min(counts) < 2 or len(set(counts)) > 1:
        raise BadInput(f"paired: arrays of {counts} samples; give two or more samples, as many in each array")
    rows = np.random.default_rng(seed).integers(counts[0], size=(resamples, counts[0]))
    draws = [float(statistic(*(a[r] for a in arrays))) for r in rows]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(statistic(*arrays)), (float(low), float(high)), counts[0])


def mean(values: ArrayLike) -> Estimate:
    """The mean of `values` (n,)."""
    return bootstrap(np.mean, _numbers(values))


def difference(values: ArrayLike, baseline: ArrayLike) -> Estimate:
    """The mean of `values - baseline`, paired by sample."""
    return bootstrap(lambda a, b: np.mean(a - b), _numbers(values), _numbers(baseline))


def ratio(values: ArrayLike, baseline: ArrayLike) -> Estimate:
    """The ratio of means, mean(values) / mean(baseline), resampled by pairs."""
    return bootstrap(lambda a, b: np.mean(a) / np.mean(b), _numbers(values), _numbers(baseline))


def median_ratio(values: ArrayLike, baseline: ArrayLike) -> Estimate:
    """The median of `values / baseline` over pairs: for timings, where a few pairs are disturbed."""
    return bootstrap(np.median, _numbers(values) / _numbers(baseline))


def proportion(hits: Sequence[bool] | ArrayLike) -> Estimate:
    """The share of true entries with Wilson's score interval, which is right near 0 and 1 as well."""
    from scipy.stats import binomtest

    flags = np.asarray(hits)
    if flags.ndim != 1 or not len(flags) or not np.isin(flags, (0, 1)).all():
        raise BadInput(f"hits: shape {flags.shape}; give one or more true or false entries in one row")
    test = binomtest(int(flags.sum()), len(flags))
    interval = test.proportion_ci(LEVEL, method="wilson")
    return Estimate(float(test.statistic), (float(interval.low), float(interval.high)), len(flags))


def jackknife(value: float, *without: ArrayLike, n: int) -> Estimate:
    """A statistic with the interval of its delete-one-block jackknife: value -+ t sqrt((k - 1) / k sum_i (v_i - v)^2).

    For smooth statistics of a whole set that are biased by its size, such as the distance between two covariances:
    there a bootstrap, whose draws repeat samples, is off by more than its own width.

    Args:
        value: the statistic of all samples.
        without: (k,) the statistic without each of k blocks of about equal size; blocks may be single samples. One
            such array for every independent set of samples, whose variances add.
        n: number of samples.

    Reference: Tukey, Bias and confidence in not-quite large samples, 1958.
    """
    from scipy.stats import t

    sets = [_numbers(left) for left in without]
    blocks = min(map(len, sets))
    if blocks < 2:
        raise BadInput(f"without: {blocks} blocks; give two or more")
    variance = sum((len(v) - 1) * v.var() for v in sets)
    spread = float(t.ppf((1 + LEVEL) / 2, blocks - 1) * np.sqrt(variance))
    return Estimate(float(value), (float(value - spread), float(value + spread)), n)


def _numbers(values: ArrayLike) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise BadInput(f"values: shape {numbers.shape} or entries that are not finite; give one row of finite numbers")
    return numbers
