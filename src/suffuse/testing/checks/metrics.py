"""Checks of metrics: they are monoids."""

from __future__ import annotations

import math

import torch

from ...core.errors import Refused
from ...core.metric import Metric
from ...evaluation.pictures import Pictures
from ...world import batch
from .check import check
from .subject import NotHere, Subject


def _pictures(n: int = 12) -> Pictures:
    views, captions = batch("validation", 0, n, maps=("masks",))
    generator = torch.Generator().manual_seed(0)
    images = (views.rgb + 0.1 * torch.randn(views.rgb.shape, generator=generator)).clamp(-1, 1)
    assert views.masks is not None
    return Pictures(images, captions, views.rgb, views.masks.sum(1, keepdim=True) > 0)


@check(Metric, "Parts merge to the figures of one pass, and each figure names its protocol.")
def parts_merge(subject: Subject) -> None:
    metric, pictures = subject.method, _pictures()
    try:
        whole = metric.result(metric.update(metric.init(), pictures))
    except Refused as reason:
        raise NotHere(str(reason)) from None
    assert whole, "it gives no figure"
    for cut in (1, 7):
        parts = [metric.measure(pictures[:cut]), metric.measure(pictures[cut:])]
        merged = metric.result(metric.merge(*parts))
        assert merged.keys() == whole.keys(), f"parts give {sorted(merged)}, the whole {sorted(whole)}"
        for name, estimate in whole.items():
            found = merged[name]
            assert found.n == estimate.n, f"{name}: n={found.n} in parts, {estimate.n} in one pass"
            assert math.isclose(found.mean, estimate.mean, rel_tol=1e-4, abs_tol=1e-6), (
                f"{name}: {found.mean} in parts, {estimate.mean} in one pass"
            )
    for name, estimate in whole.items():
        low, high = estimate.interval
        assert low <= estimate.mean <= high, f"{name}: {estimate.mean} lies outside of its interval {estimate.interval}"
        assert estimate.protocol, f"{name} has no protocol"
