"""SDEdit: the picture is noised and denoised again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.cond import Cond
from ..core.registry import method
from .code import Code
from .inverter import Inverter, Plan


@method(paper="sdedit")
@dataclass(frozen=True)
class SDEdit(Inverter):
    """x_t ~ q(x_t | x0) where the last share `strength` of the run begins; source and target share the noise.

    Args:
        strength: 0 keeps the picture, 1 forgets all of it but the trace that the last noise level leaves.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", inversion=SDEdit(0.6))

    Reference: Meng et al., SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations,
    2108.01073.
    """

    strength: float = 0.8

    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        t = plan.grid.node(plan.first(self.strength, self))

        def draw(like: Tensor, tag: str = "", kind: str = "normal") -> Tensor:
            return getattr(plan.noise, kind)(like, range(len(like)), f"start{tag and '/' + tag}")

        x = plan.denoiser.process.given(cond).corrupt(x0, t, draw)
        return Code(x, t.item(), self, plan.place)
