"""Keeping a part of a picture while the rest is made anew."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.hook import Hook, StepFunction
from ..core.plugin import Needs
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value


@method(tags=("inpainting",))
@dataclass(frozen=True)
class MaskedBlend(Hook):
    """x_s = m x_s + (1 - m) (alpha_s x0 + sigma_s eps): what is to stay is put back, at its noise level, in every step.

    `cond.alt[path]` holds, for each sample, "x0" (the state of the source picture), "noise" (eps) and "mask" (m, 1
    where the picture may change; values between blend). After the last step of the grid the source is put back
    without noise.

    Args:
        path: name of that alternative.

    Raises:
        BadInput: there is no such alternative, or something is missing in it.

    Reference: Avrahami et al., Blended Latent Diffusion, 2206.02779.

    Differs from the paper: eps is one draw for the whole run, as in diffusers' pipelines, so that the kept part moves
    along a straight line and multistep samplers see a smooth path.
    """

    path: str = "known"

    needs = Needs.GAUSSIAN

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        known = step.cond.alt.get(self.path, Cond())
        missing = [k for k in ("x0", "noise", "mask") if k not in known]
        if missing:
            raise BadInput(
                f"{self}: cond.alt[{self.path!r}] has no {missing[0]!r}; give cond.with_alt({self.path}=Cond(...)) "
                "with x0, noise and mask, or mask_image to Model.generate"
            )
        out, x0, mask = step(x, at), known["x0"], known["mask"]
        kept = x0 if at.i == at.n - 1 else at.process.alpha(at.s) * x0 + at.process.sigma(at.s) * known["noise"]
        return mask * out + (1.0 - mask) * kept
