"""Noise that suits a prompt, by the model itself: a step and back again before the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..core.errors import Refused
from ..core.hook import Hook, StepFunction
from ..core.plugin import Needs, Plugin, Prompt, Setting
from ..core.reflection import Branch, Given, reflect
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value
from ..guidance.cfg import CFG
from ..samplers.ancestral import DDIM


@method(paper="golden-noise")
@dataclass(frozen=True)
class ReDenoise(Hook):
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

    needs = Needs.GAUSSIAN

    def __post_init__(self) -> None:
        self._branches  # noqa: B018  what is no setting is found here and not in the middle of a run

    @property
    def _branches(self) -> tuple[Branch, Branch]:
        return Branch.of(self.strong), Branch.of(self.weak)

    @property
    def bare(self) -> tuple[Plugin, ...]:
        return self, *(inner for branch in self._branches for inner in branch.bare)

    def prompts(self) -> Mapping[str, Prompt]:
        return {k: v for branch in self._branches for k, v in branch.prompts().items()}

    def bind(self, setting: Setting) -> ReDenoise:
        strong, weak = (branch.bind(setting) for branch in self._branches)
        return replace(self, strong=strong, weak=weak)

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if not at.first:
            return step(x, at)
        if at.i == at.n - 1:
            raise Refused("ReDenoise: a run of one step has nothing to come back from; use 2 steps or more")
        return step(reflect(step, x, at, *self._branches, DDIM()), at)
