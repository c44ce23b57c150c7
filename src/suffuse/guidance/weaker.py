"""Guidance away from a weaker version of the network: one that is smaller, less trained, or perturbed inside.

    e = e_in + s (e(x, c) - e_weak(x, c))

e_in is what the guidance inside predicts, the conditional prediction itself where there is none. No unconditional
prediction is needed, so these guide unconditional models, too. Put around CFG they cost one evaluation more.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.plugin import Setting
from ..core.predict import Predict
from ..core.process import Gaussian
from ..core.reflection import Branch, Branched, Given
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value
from .directions import conditional
from .kinds import towards


class AwayFromWeaker(Guidance):
    """What they share."""

    evaluations = 2

    @property
    @abstractmethod
    def strength(self) -> float:
        """s; at 0 the weaker network is not asked."""

    @abstractmethod
    def weaker(self, predict: Predict, x: Value, t: Coef, cond: Cond) -> Any:
        """The prediction of the weaker network."""

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        p = predict(x, t, cond)
        if self.strength == 0.0:
            return p
        pc = conditional(predict, p, x, t, cond)
        return towards(p, self.strength, pc, self.weaker(predict.plain, x, t, cond))


def asked(branch: Branch, predict: Predict, cond: Cond) -> tuple[Predict, Cond]:
    """How a branch is asked: with its network, patches and guidance, and its alternative of the condition."""
    net, process = branch.denoiser or predict.denoiser, predict.denoiser.process
    if net.process != process and isinstance(process, Gaussian):
        net = net.under(process)
    if branch.denoiser is not None or branch.patches:
        predict = predict.on(net.with_(*branch.patches))
    if branch.guidance is not None:
        predict = predict.plain.through(branch.guidance)
    return predict, cond.branch(branch.path) if branch.path else cond


@method(paper="autoguidance")
@dataclass(frozen=True)
class Autoguidance(Branched, AwayFromWeaker):
    """D = D_0(x, c) + w (D_1(x, c) - D_0(x, c)): the network D_1, guided by a bad version of itself.

    Both make the same errors, the weaker one larger ones, so their difference points away from them; the variety that
    CFG loses stays. `Autoguidance(weak) | CFG(2)` guides in both ways.

    Args:
        weak: D_0, said by what differs from the run: a denoiser (fewer parameters, fewer training steps; one of another
            Gaussian process is read in the run's), a patch, an adapter, or a `Branch` of several of these.
        w: guidance scale; 1 is the network itself. The paper has 2.1 for EDM2-S.

    Raises:
        BadInput: what is no branch.

    Example:
        >>> model.generate("a red circle", guidance=Autoguidance(weak.denoiser, 2))

    Reference: Karras et al., Guiding a Diffusion Model with a Bad Version of Itself, 2406.02507.
    """

    weak: Given
    w: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.weak, Given):
            raise BadInput(f"Autoguidance(weak={self.weak!r:.40}): give a denoiser, a patch, an adapter or a Branch")

    @property
    def strength(self) -> float:
        return self.w - 1.0

    @property
    def _branches(self) -> tuple[Branch]:
        return (Branch.of(self.weak),)

    def bind(self, setting: Setting) -> Autoguidance:
        return replace(self, weak=Branch.of(self.weak).bind(setting))

    def neutral(self) -> Autoguidance:
        """The network itself."""
        return replace(self, w=1.0)

    def weaker(self, predict: Predict, x: Value, t: Coef, cond: Cond) -> Any:
        other, told = asked(Branch.of(self.weak), predict, cond)
        return other(x, t, told, "weak")
