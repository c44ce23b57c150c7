"""Adaptive projected guidance: what oversaturates is taken out of the guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value, combine, dot, norm


@method(paper="apg")
@dataclass(frozen=True)
class APG(Guidance):
    """D = D_c + (w - 1) (d_perp + eta d_par): the guidance d, split along and across the conditional clean picture D_c.

    d_i = D(x, c) - D(x, null) + beta d_{i-1},  then shortened to length r where it is longer,
    d_par = <d, D_c> / <D_c, D_c> D_c,  d_perp = d - d_par

    The part along the picture makes it brighter and more saturated, the part across it better. With eta = 1, r = inf
    and beta = 0 it is CFG. Negative prompts take the place of the null condition.

    Args:
        w: guidance scale; 1 is the plain conditional prediction.
        eta: share of the parallel part that is kept.
        radius: r, longest guidance of a sample in the norm over all of its entries, which grows with their number; the
            paper has 15 for SDXL and 2.5 for EDM2. inf is none.
        momentum: beta; negative values push away from the steps before.

    Raises:
        BadInput: a radius that is not above 0.

    Example:
        >>> model.generate("a red circle", guidance=APG(10, radius=2.5))

    Reference: Sadat et al., Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models,
    2410.02416.
    """

    w: float = 7.5
    eta: float = 0.0
    radius: float = 15.0
    momentum: float = -0.5

    needs = Needs.GAUSSIAN | Needs.UNCONDITIONAL
    evaluations = 2

    def __post_init__(self) -> None:
        if not self.radius > 0.0:
            raise BadInput(f"APG(radius={self.radius}): the longest guidance is above 0; inf limits nothing")

    def neutral(self) -> APG:
        """The plain conditional prediction."""
        return replace(self, w=1.0)

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        if self.w == 1.0:
            return predict(x, t, cond, "cond")
        pc, pu = predict.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))])
        clean, d = pc.x0, pc.x0 - pu.x0
        if self.momentum:
            past = at.memory.get("guidance")
            d = d if past is None else d + self.momentum * past
            at.memory["guidance"] = d
        if self.radius < math.inf:
            d = Coef((self.radius / norm(d).clamp(min=1e-30)).clamp(max=1.0)) * d
        along = Coef(dot(d, clean) / dot(clean, clean).clamp(min=1e-30)) * clean
        gain = self.w - 1.0
        return pc.with_(x0=combine((1.0, clean), (gain, d), (gain * (self.eta - 1.0), along)))
