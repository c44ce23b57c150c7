"""Noise that suits a prompt, by the model itself: a step and back again before the run."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import Refused
from ..core.hook import StepFunction
from ..core.reflection import Given, Reflection, reflect
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value
from ..guidance.cfg import CFG
from ..samplers.ancestral import DDIM


@method(paper="golden-noise")
@dataclass(frozen=True)
class ReDenoise(Reflection):
    """Re-denoise sampling: the run starts from x'_T = DDIM-Inversion(DDIM(x_T; w_l); w_n) instead of x_T.

    One step from pure noise with much guidance and its counterpart back with little leave in the noise what the prompt
    wants and the unguided model does not. It is the target that `GoldenNoise` learns, made for 2 + 1 evaluations
    with the defaults.

    Args:
        strong: setting of the step down: a guidance (of scale w_l), or another thing as for `W2SD`.
        weak: setting of the step back (w_n).

    Raises:
        Refused: a run of a single step, which has no state between noise and data to come back from.

    Example:
        >>> model.generate("a red circle", hooks=[ReDenoise()])

    Reference: Zhou et al., Golden Noise for Diffusion Models: A Learning Framework, 2411.09502.

    Differs from the paper: the released code asks the network about the state at s as if it were at T; here it is asked
    at s, the exact counterpart on the grid.
    """

    strong: Given = CFG(5.5)
    weak: Given = CFG(1.0)

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if not at.first:
            return step(x, at)
        if at.i == at.n - 1:
            raise Refused("ReDenoise: a run of one step has nothing to come back from; use 2 steps or more")
        return step(reflect(step, x, at, *self._branches, DDIM()), at)
