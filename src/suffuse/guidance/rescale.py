"""Corrections of a guided prediction: its spread is brought back to that of the conditional one, or its range limited.

Both stand around the guidance that they correct: `GuidanceRescale() | CFG(7.5)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput, Refused, nearest
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.prediction import KINDS
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Tree, Value, flat
from .directions import conditional
from .kinds import in_kind

SPACES = ("output", "x0", "eps")


@method(paper="zero-terminal-snr")
@dataclass(frozen=True)
class GuidanceRescale(Guidance):
    """x_final = phi x_cfg std(x_pos) / std(x_cfg) + (1 - phi) x_cfg: guided, but with the spread of unguided.

    x_cfg is what the guidance inside predicts, x_pos the conditional prediction, and std is taken over all entries of a
    sample. High guidance scales overexpose; this takes the excess back without an evaluation more.

    Args:
        phi: share of the correction, 0 to 1; the paper's 0.7.
        space: what is rescaled: the network's own "output" as published (v in the paper), "x0" or "eps".

    Raises:
        BadInput: a share outside of 0 to 1, or an unknown space. Refused: eps on a process that starts at pure noise,
            where it tells nothing of the picture.

    Example:
        >>> model.generate("a red circle", guidance=GuidanceRescale(0.7) | CFG(7.5))

    Reference: Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2305.08891, section 3.4.
    """

    phi: float = 0.7
    space: str = "output"

    needs = Needs.GAUSSIAN
    evaluations = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.phi <= 1.0:
            raise BadInput(f"GuidanceRescale(phi={self.phi}): it is a share of the correction; give 0 to 1")
        if self.space not in SPACES:
            raise BadInput(f"GuidanceRescale(space={self.space!r}): no such space; {nearest(self.space, SPACES)}")

    def neutral(self) -> GuidanceRescale:
        """No correction."""
        return replace(self, phi=0.0)

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        p = predict(x, t, cond)
        if self.phi == 0.0 or not predict.guidance:
            return p
        pc = conditional(predict, p, x, t, cond)
        if self.space == "eps" and bool(torch.as_tensor(at.process.alpha(t) == 0.0).any()):
            raise Refused(f"{self}: at pure noise eps tells nothing of the picture; rescale the output, or x0")
        row = pc.row if self.space == "output" else KINDS[self.space].row(at.process, t)
        guided = in_kind(p, row)
        factor = Coef(self.phi * _std(in_kind(pc, row).value) / _std(guided.value) + (1.0 - self.phi))
        return replace(guided, value=factor * guided.value)


def _std(v: Value) -> Tensor:
    return flat(v).double().std(1).clamp(min=1e-30)


@method(paper="imagen")
@dataclass(frozen=True)
class DynamicThresholding(Guidance):
    """x0 <- clip(x0, -s, s) / s with s = max(1, the p-quantile of |x0|), sample by sample.

    For models of pixels in [-1, 1], whose guided predictions leave that range at high scales. Latents have no range,
    and are better served by `GuidanceRescale` or `APG`.

    Args:
        quantile: p, above 0 and at most 1; 1 clips nothing and divides by the largest entry, where that is above 1.

    Raises:
        BadInput: no quantile.

    Example:
        >>> model.generate("7", guidance=DynamicThresholding() | CFG(5))

    Reference: Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding,
    2205.11487, section 2.3.
    """

    quantile: float = 0.995

    needs = Needs.GAUSSIAN
    evaluations = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.quantile <= 1.0:
            raise BadInput(f"DynamicThresholding(quantile={self.quantile}): give a quantile above 0 and at most 1")

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        p = predict(x, t, cond)
        bound = torch.quantile(flat(p.x0).double().abs(), self.quantile, dim=1).clamp(min=1.0)
        return p.with_(x0=_clipped(p.x0, bound))


def _clipped(v: Value, bound: Tensor) -> Value:
    """v within -bound and bound (B,), divided by it."""
    if isinstance(v, Tree):
        return v.map(lambda part: _clipped(part, bound))
    wide = bound.to(v).reshape(-1, *[1] * (v.ndim - 1))
    return v.clamp(-wide, wide) / wide
