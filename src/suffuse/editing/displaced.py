"""Noise that goes along: an edit starts with the noise of a region at the region's new place."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..core.cond import Cond
from ..core.memory import rows_of
from ..core.registry import method
from .code import Code
from .direct_inversion import DirectInversion
from .feature_probe import nearest
from .inverter import Inverter, Plan
from .regions import Operation, Pointed


@method(paper="dragondiffusion")
@dataclass(frozen=True)
class Displaced(Inverter):
    """z_T <- m_new z_T[m_old] + (1 - m_new) z_T: the target starts from an inversion in which the region has moved.

    Args:
        operation: what becomes of the region.
        inverter: finds the picture, and acts during decoding.

    Example:
        >>> edit(model, image, prompt, prompt, inversion=Displaced(Move(16, 0)), editor=[KVBank()], mask=mask)

    Reference: Mou et al., DragonDiffusion: Enabling Drag-style Manipulation on Diffusion Models, 2307.02421.
    """

    operation: Operation
    inverter: Inverter = DirectInversion()

    @property
    def places(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.operation.places

    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        code, rows = self.inverter.encode(plan, x0, cond), list(range(len(x0)))
        taken = self.operation.taken(rows_of("", rows), rows)
        pointed = Pointed.at(cond, self.operation, rows, taken)
        region = self.operation.on(code.x, pointed)
        moved = nearest(code.x[taken], region.origin.to(code.x), pointed.size).transpose(1, 2).view_as(code.x)
        return replace(code, target=region.new * moved + (1.0 - region.new) * code.x)
