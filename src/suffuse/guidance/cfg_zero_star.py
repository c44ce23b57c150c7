"""CFG-Zero*: guidance of flows that corrects the unconditional velocity, and rests at the start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.prediction import FLOW, Kind, V
from ..core.process import Gaussian, Process
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value, dot
from .kinds import in_kind


@method(paper="cfg-zero-star")
@dataclass(frozen=True)
class CFGZeroStar(Guidance):
    """v = s v(x, null) + w (v(x, c) - s v(x, null)) with s = <v(x, c), v(x, null)> / |v(x, null)|^2, sample by sample.

    The optimised scale s makes s v(x, null) the nearest to v(x, c) that a factor can make, which matters while the
    velocity of the network is inaccurate. In the first steps of a run, where zero is the better velocity, it is zero,
    and the network is not asked.

    Args:
        w: guidance scale; 1 is the plain conditional prediction.
        zero_init: share of the run that rests, rounded to steps but at least one; 0 is none. The paper's 4 %.

    Raises:
        BadInput: a share outside of [0, 1). Refused: a process that is neither variance preserving nor has a velocity.

    Example:
        >>> model.generate("a red circle", guidance=CFGZeroStar(4))

    Reference: Fan et al., CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models, 2503.18886.

    Differs from the paper: other processes are guided in their velocity alpha' x0 + sigma' eps, too; that of a variance
    preserving one is v, up to a factor that s does not see.
    """

    w: float = 7.5
    zero_init: float = 0.04

    needs = Needs.GAUSSIAN | Needs.UNCONDITIONAL

    def __post_init__(self) -> None:
        if not 0.0 <= self.zero_init < 1.0:
            raise BadInput(
                f"CFGZeroStar(zero_init={self.zero_init}): it is a share of the run; give 0 or more, below 1"
            )

    def neutral(self) -> CFGZeroStar:
        """The plain conditional prediction, from the first step on."""
        return replace(self, w=1.0, zero_init=0.0)

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        if self.zero_init and at.i < max(1, round(self.zero_init * at.n)):
            process = predict.denoiser.process.given(cond)
            return process.predict(x, t, torch.zeros_like(x), _velocity(process))
        if self.w == 1.0:
            return predict(x, t, cond, "cond")
        pc, pu = predict.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))])
        row = _velocity(at.process).row(at.process, t)
        vc, vu = in_kind(pc, row), in_kind(pu, row)
        s = Coef(dot(vc.value, vu.value) / dot(vu.value, vu.value).clamp(min=1e-30))
        return vc.mix([self.w, (1.0 - self.w) * s], [vc, vu])


def _velocity(process: Process) -> Kind:
    """The kind of prediction that is the direction in which states move."""
    assert isinstance(process, Gaussian)
    middle = Coef(0.5)
    alpha, sigma = process.alpha(middle), process.sigma(middle)
    return V if abs((alpha * alpha + sigma * sigma).item() - 1.0) < 1e-6 else FLOW
