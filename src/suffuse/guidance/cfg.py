"""Classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.cond import Cond
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value


@method(paper="cfg")
@dataclass(frozen=True)
class CFG(Guidance):
    """e = e(x, null) + w (e(x, c) - e(x, null)).

    Works on every kind of prediction: the mix is taken in the network's own output, and on discrete data in the logits.

    Args:
        w: guidance scale; 1 is the plain conditional prediction (one evaluation), 0 the unconditional one.

    Reference: Ho and Salimans, Classifier-Free Diffusion Guidance, 2207.12598.
    """

    w: float = 7.5

    needs = Needs.UNCONDITIONAL
    evaluations = 2

    def neutral(self) -> CFG:
        """The plain conditional prediction."""
        return CFG(1.0)

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        if self.w == 1.0:
            return predict(x, t, cond, "cond")
        pc, pu = predict.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))])
        return pc.mix([self.w, 1.0 - self.w], [pc, pu])
