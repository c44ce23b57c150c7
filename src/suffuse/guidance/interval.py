"""Guidance within an interval of noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value, batch_size
from .kinds import in_kind


@method(paper="guidance-interval", tags=("saves guidance",))
@dataclass(frozen=True)
class GuidanceInterval(Guidance):
    """The guidance inside for low < sigma <= high, the plain conditional prediction at all other noise levels.

    sigma is the noise-to-signal ratio sigma / alpha, in which the paper's models are written, on any process; a flow
    has t / (1 - t) at time t. Guidance harms at high noise, where it picks one of few pictures, and is wasted at low
    noise; outside of the interval its evaluations are saved. `CFG(5).during(0.2, 0.8)` is a window in shares of a run.

    Args:
        low, high: sigma_lo and sigma_hi. The paper has 0.28 and 5.42 for SDXL, 0.28 and 2.90 for EDM2-S.

    Raises:
        BadInput: bounds that are no interval.

    Example:
        >>> model.generate("a red circle", guidance=GuidanceInterval(0.28, 5.42) | CFG(8))

    Reference: Kynkäänniemi et al., Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
    Diffusion Models, 2404.07724.
    """

    low: float = 0.28
    high: float = 5.42

    needs = Needs.GAUSSIAN
    evaluations = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < self.high:
            raise BadInput(
                f"GuidanceInterval(low={self.low}, high={self.high}): give 0 <= low < high, as sigma / alpha"
            )

    def neutral(self) -> GuidanceInterval:
        """All noise levels."""
        return replace(self, low=0.0, high=math.inf)

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        rho = at.process.rho(t)
        within = torch.as_tensor((rho > self.low) & (rho <= self.high)).expand(batch_size(x))
        if within.all():
            return predict(x, t, cond)
        p = predict.plain(x, t, cond, "cond")
        if not within.any():
            return p
        rows = within.nonzero()[:, 0]  # samples of a batch may stand at different noise levels
        p = in_kind(p, p.row)
        return p.put(rows, in_kind(predict[rows](x[rows], t[rows], cond[rows]), p[rows].row))
