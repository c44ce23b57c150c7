"""Parts of a run under another model, and pixels that become free one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..core.denoiser import Denoiser
from ..core.hook import Hook, StepFunction
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value


@method(paper="spice")
@dataclass(frozen=True, eq=False)
class Stage(Hook):
    """Another denoiser makes the steps; `.during(start, stop)` gives it a part of the run.

    It stands on the same noise levels: one that was trained on another process is asked at the same ratio of noise to
    signal. `cond.alt[name]` holds what it reads beside the run's own condition, such as edges for a control model.

    Args:
        denoiser: of the same states.
        name: of that alternative; it may be missing.
        sees: what the alternative says of a picture (B, 3, H, W) in [-1, 1], for tasks that hand it one; None says
            nothing.

    Example:
        >>> model.generate("a red circle", hooks=[Stage(other.denoiser).during(0.0, 0.2)])
        >>> Stage(model.denoiser.with_(ControlNet.load("canny/")), sees=lambda drawn: {"control": canny(drawn)})

    Reference: Tang et al., SPICE: A Synergistic, Precise, Iterative, and Customizable Image Editing Workflow,
    2504.09697.
    """

    denoiser: Denoiser
    name: str = "stage"
    sees: Callable[[Tensor], Mapping[str, Tensor]] | None = None

    def told(self, pixels: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        """The alternative of its name for a picture, or nothing."""
        return {} if self.sees is None else {self.name: self.sees(pixels)}

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        same = str(self.denoiser.process) == str(at.process)
        cond = step.cond.branch(self.name) if self.name in step.cond.alt else step.cond
        return step.using(denoiser=self.denoiser if same else self.denoiser.under(at.process), cond=cond)(x, at)


@method(paper="spice", tags=("inpainting",))
@dataclass(frozen=True)
class NoiseLevelMask(Hook):
    """m_s = [ mask > share of the steps that is left ]: a pixel is free from the time at which the noise level falls
    below its value in the mask, so that soft borders change little and late.

    It makes `MaskedBlend` blend by m_s instead of by the mask, and stands around it.

    Args:
        path: alternative of the condition that `MaskedBlend` reads; a network that takes the mask itself has none.

    Example:
        >>> model.generate("a red circle", image=image, mask_image=soft, hooks=[NoiseLevelMask()])

    Reference: Tang et al., SPICE: A Synergistic, Precise, Iterative, and Customizable Image Editing Workflow,
    2504.09697.
    """

    path: str = "known"

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if self.path not in step.cond.alt:
            return step(x, at)
        known = step.cond.alt[self.path]
        left = 1.0 - (at.i + 1) / at.n
        free = (known["mask"] > left).to(known["mask"])
        return step.using(cond=step.cond.with_alt(**{self.path: known | {"mask": free}}))(x, at)
