"""Guidance of a state, not of a prediction: before a step, the state is moved along the difference of two models."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..core.errors import BadInput
from ..core.hook import StepFunction
from ..core.reflection import Given, Reflection, reflect
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value
from ..samplers.ancestral import DDIM
from .cfg import CFG


@method(paper="w2sd")
@dataclass(frozen=True)
class W2SD(Reflection):
    """Weak-to-strong diffusion: before each step but the last, x_t <- x_t + lambda (x~_t - x_t) by reflection.

    x~_t = M_w^inv(M_s(x_t, t), s) denoises from t to s with the strong model and goes back with the weak one. The shift
    follows grad log p_s - grad log p_w, which stands for the gap between the strong model and the data. Then the run's
    own step is made, with the run's own settings.

    A step costs what one prediction of each of the three settings does: three times the evaluations where all are
    guided alike, 2 + 1 + 2 a step with the defaults in a run with CFG. `W2SD(...).during(0, 0.5)` reflects in the first
    half alone.

    Args:
        strong, weak: the two models, each said by what differs from the run: a guidance, a patch, an adapter
            (`lora.scaled(1.5)`, `lora.scaled(-1.5)`), a denoiser (a fine-tuned network and its base, with ControlNet
            and without), or a `Branch` of several of these, which may ask with another prompt.
        strength: lambda, how much of the shift is made; 0 is the run without it.

    Raises:
        BadInput: a strength that is not a number.

    Example:
        >>> model.generate("a red circle", hooks=[W2SD(strong=CFG(5.5), weak=CFG(1))])
        >>> rich = Branch(CFG(5.5), path="rich", prompt="a large red circle in the centre, sharp edges")
        >>> model.generate("a red circle", hooks=[W2SD(strong=rich, weak=CFG(1))])

    Reference: Bai et al., Weak-to-Strong Diffusion with Reflection, 2502.00473.

    Differs from the paper: lambda is there the number of reflected steps, here a window, and the strength of the shift
    is added. The released code asks the weak network about the state at s as if it were at t; here it is asked at s.
    """

    strong: Given = CFG(5.5)
    weak: Given = CFG(1.0)
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.strength):
            raise BadInput(f"W2SD(strength={self.strength}): must be a finite number; 1 makes the whole shift")

    def neutral(self) -> W2SD:
        """No shift."""
        return replace(self, strength=0.0)

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if at.last or self.strength == 0.0:
            return step(x, at)
        shifted = reflect(step, x, at, *self._branches, DDIM())
        return step(x + self.strength * (shifted - x), at)
