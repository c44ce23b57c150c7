"""Direct Inversion: the source branch is put back on the path of its inversion after every step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.hook import Hook, StepFunction
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value, put
from .branches import pairs_at
from .code import Code
from .ddim_inversion import pivots
from .inverter import Inverter, Plan


@method(paper="direct-inversion")
@dataclass(frozen=True)
class DirectInversion(Inverter, Hook):
    """z^src_{t-1} <- z^src_{t-1} + d_t with d_t = z*_{t-1} - DDIM_w(z^src_t); the target branch is left as it is.

    z*_0 .. z*_T is the path of DDIM inversion with scale 1 and the source prompt. The source branch so equals it at
    every step, whatever the guidance scale w of editing, and the attention that editors read from it is the picture's.

    Args:
        scale: share of d_t that is added; 1 is all, 0 is plain DDIM inversion.
        every: d_t is added at every so many steps, counted from the first.
        target: add d_t to the target branch too.
        w: guidance scale of the inversion.
        strength: share of the steps that are inverted, 0 to 1.

    Raises:
        BadInput: numbers out of range.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", inversion=DirectInversion())

    Reference: Ju et al., Direct Inversion: Boosting Diffusion-based Editing with 3 Lines of Code, 2310.01506.

    Differs from the paper: the path is kept instead of the offsets, which belong to one scale w, so that one code
    serves all scales. `scale`, `every` and `target` are its ablations.
    """

    scale: float = 1.0
    every: int = 1
    target: bool = False
    w: float = 1.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.scale <= 1.0 or not (isinstance(self.every, int) and self.every >= 1):
            raise BadInput(
                f"DirectInversion(scale={self.scale}, every={self.every}): scale lies in [0, 1], every is 1 or more"
            )

    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        first = plan.first(self.strength, self)
        path = pivots(plan, x0, cond, self.w, first)
        return Code(path[:, 0], plan.grid.node(first).item(), self, plan.place, extras={"pivots": path})

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        z = step(x, at)
        if at.i % self.every:
            return z
        targets, sources = pairs_at(at.samples, step.cond, self)
        pivot = step.cond.alt["code"]["pivots"][sources, at.i - at.n]  # from the end: paths may begin late
        offset = self.scale * (pivot - z[sources])
        out = put(z, sources, z[sources] + offset)
        return put(out, targets, z[targets] + offset) if self.target else out
