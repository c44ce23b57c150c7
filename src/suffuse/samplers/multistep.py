"""What multistep methods share: a history of fixed length, of which each row uses what it really has.

An entry is (place, value): where on the process a prediction was made (a time or a log-SNR, a Coef) and the
prediction. The structure is the same from the start of a run on; entries that no step has written yet have the place
NaN. Rows may know different amounts, because runs that began at different times may be joined in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from ..core.value import Coef, Value, combine, where

History = tuple[tuple[Coef, Value], ...]
"""(place, value) of the last predictions, newest first."""

ZERO, ONE = Coef(0.0), Coef(1.0)


def blank(x: Value, n: int) -> History:
    """A history of n entries for states like `x`, in which nothing is known."""
    return ((Coef(math.nan), torch.zeros_like(x)),) * n


def push(history: History, place: Coef, value: Value) -> History:
    """The history with a new entry and without its oldest."""
    return ((place, value), *history)[: len(history)]


def known(history: History, here: Coef) -> Coef:
    """How many of the newest entries can be interpolated: written, and each a finite way from the one after it."""
    count, unbroken = ZERO, ONE
    for place, _ in history:
        unbroken = where_apart(here, place, unbroken)
        count, here = count + unbroken, place
    return count


def seen_from_noise(logsnr: Coef) -> Coef:
    """Log-SNR as a place of predictions: pure noise, where it is infinite, stands where sigma / alpha = 1000.

    Predictions of x0 do not change between the two, and at infinity the first one of a flow could not be used again.
    """
    return where(logsnr > -math.inf, logsnr, -math.log(1000.0))


def where_apart(a: Coef, b: Coef, then: Coef) -> Coef:
    """`then` where a and b differ by a finite number, else 0 (also where one of them is NaN).

    A step of no length, or of an infinite one in log-SNR (from pure noise, to pure data), extrapolates nothing.
    """
    gap = abs(a - b)
    return where((gap > 0.0) & (gap < math.inf), then, ZERO)


def blend(order: Coef, rule: Callable[[int], Sequence[Coef]], values: Sequence[Value]) -> Value:
    """sum_i w_i values[i] with the weights w = rule(k) of each row's own order k.

    Args:
        order: whole numbers.
        rule: weights at one order; those of the last values may be left out where they are 0.
        values: states.
    """
    if order.shared:
        shared = zip(rule(int(order.item())), values, strict=False)
        return combine(*((w, v) for w, v in shared if not w.shared or w.d != 0.0))
    weights = [ZERO] * len(values)
    for k in sorted({int(v) for v in order.d.flatten().tolist()}):  # type: ignore[union-attr]
        ruled = [*rule(k), *[ZERO] * len(values)]
        weights = [where(order == k, new, old) for new, old in zip(ruled, weights, strict=False)]
    return combine(*zip(weights, values, strict=True))
