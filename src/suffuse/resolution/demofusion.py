"""DemoFusion: large pictures in phases, each tied to the one before by noised residuals and dilated views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.codec import Codec
from ..core.cond import Cond
from ..core.guidance import Guidance
from ..core.hook import Hook, StepFunction
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value, combine, cos
from .bands import gaussian_blur
from .low_band import guide_of
from .multidiffusion import MultiDiffusion
from .progressive import Progressive, bicubic
from .tiles import Box, Flat
from .views import View, ask, joined


def cosine(t: Coef) -> Coef:
    """c(t) = (1 + cos(pi (1 - t))) / 2: 1 at noise, 0 at data."""
    return 0.5 * (1.0 + cos(math.pi * (1.0 - t)))


@method(paper="demofusion")
@dataclass(frozen=True)
class SkipResidual(Hook):
    """z_t <- c^a z'_t + (1 - c^a) z_t  before every step, with z'_t the guide at the noise level t.

    The guide is `cond.alt["guide"]` with "x0" and "noise", of the state's shape: one noise for all t, so that z'_t is
    the path from the guide to where the phase began.

    Args:
        exponent: a, above 0; larger ones let go of the guide earlier.

    Raises:
        BadInput: there is no guide.

    Reference: Du et al., DemoFusion: Democratising High-Resolution Image Generation With No $$$, 2311.16973.
    """

    exponent: float = 3.0

    needs = Needs.GAUSSIAN

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        guide = guide_of(self, step.cond, "x0", "noise")
        c = cosine(at.t) ** self.exponent
        noised = at.process.marginal(guide["x0"], at.t).at(guide["noise"])
        return step(combine((c, noised), (1.0 - c, x)), at)


@method(paper="demofusion")
@dataclass(frozen=True)
class KeepStatistics(Hook):
    """After the last step each picture gets the mean and standard deviation that its guide asks for.

    The guide is `cond.alt["guide"]` with "mean" and "std", (B,).

    Raises:
        BadInput: there is no guide.
    """

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        guide, out = guide_of(self, step.cond, "mean", "std"), step(x, at)
        return standardised(out, Coef(guide["mean"]), Coef(guide["std"])) if at.last else out


def statistics(x: Tensor) -> tuple[Coef, Coef]:
    """Mean and standard deviation of each picture, (B,)."""
    return Coef(x.flatten(1).mean(1)), Coef(x.flatten(1).std(1))


def standardised(x: Tensor, mean: Coef, std: Coef) -> Tensor:
    """Each picture with this mean and standard deviation."""
    own, spread = statistics(x)
    return mean + std / spread * (x - own)


@method(paper="demofusion")
@dataclass(frozen=True)
class DilatedSampling(MultiDiffusion):
    """eps(z) = (1 - c^b) eps_local(z) + c^b eps_global(z): windows for what is fine, dilated views for what is coarse.

    eps_local is MultiDiffusion with moving windows. eps_global asks about the s^2 dilated views G(z)[h::s, w::s], each
    of about the network's own size, where G blurs with a Gaussian of (2 s - 1)^2 entries and standard deviation
    sigma (0.99 c^d + 0.01) and restores mean and standard deviation, so that views know of each other. The network's
    output is taken as if it had been asked about the state that is not blurred.

    Args:
        window, stride, weight, jitter, wrap, batch: of the windows, see `MultiDiffusion`.
        sigma: of the blur at most, in entries.
        exponent: b.
        blur_exponent: d.

    Example:
        >>> model.generate("a red circle", height=128, width=128, guidance=DilatedSampling() | CFG(5))

    Reference: Du et al., DemoFusion: Democratising High-Resolution Image Generation With No $$$, 2311.16973.

    Differs from the paper: sizes that s does not divide have views of two sizes instead of zeros at an edge; mean and
    standard deviation are those of each picture, not of the batch; windows at the edges stay there and end earlier
    instead of reaching over the edge into zeros.
    """

    jitter: bool = True
    sigma: float = 0.8
    exponent: float = 1.0
    blur_exponent: float = 1.0

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        local = super().__call__(predict, x, t, cond, at)
        window = self.windows(predict, x)
        s = max(math.ceil(side / w) for side, w in zip(x.shape[-2:], window, strict=True))
        if s == 1:
            return local
        views = dilated((x.shape[-2], x.shape[-1]), s)
        parts = ask(predict, self._blurred(x, t, s), t, cond, views, self.batch)
        c = cosine(t) ** self.exponent
        return local.mix([1.0 - c, c], [local, joined(parts, views, x)])

    def _blurred(self, x: Tensor, t: Coef, s: int) -> Tensor:
        blurred = gaussian_blur(x, self.sigma * (0.99 * cosine(t) ** self.blur_exponent + 0.01), s - 1)
        return standardised(blurred, *statistics(x))


def dilated(size: tuple[int, int], s: int) -> list[View]:
    """The s^2 views of every s-th row and column."""
    boxes = [Box(h, w, -((h - size[0]) // s), -((w - size[1]) // s), s) for h in range(s) for w in range(s)]
    return [View(f"dilated{k}", box, Flat()(box.height, box.width)) for k, box in enumerate(boxes)]


@method(paper="demofusion")
@dataclass(frozen=True)
class DemoFusion(Progressive):
    """Phases of growing size: each starts from the noised latents of the one before, enlarged, and stays near them.

    A phase is `DilatedSampling` around the run's guidance and `SkipResidual` around its steps; at its end latents get
    back mean and standard deviation of the first phase.

    Args:
        views: how a state is asked about; `MultiDiffusion(jitter=True)` leaves out the dilated views.
        residual: what ties a phase to its guide; None leaves it out.
        strength: share of the steps that a phase makes; 1 is the paper's.

    Example:
        >>> model.generate("a red circle", height=128, width=128, upscale=DemoFusion())
        >>> model.upscale("circle.png", "a red circle", factor=2, method=DemoFusion())

    Reference: Du et al., DemoFusion: Democratising High-Resolution Image Generation With No $$$, 2311.16973.

    Differs from the paper: as `DilatedSampling` does.
    """

    views: MultiDiffusion = DilatedSampling()
    residual: SkipResidual | None = SkipResidual()
    strength: float = 1.0

    def guide(self, codec: Codec, x0: Tensor, size: tuple[int, int]) -> Cond:
        mean, std = statistics(x0)
        return Cond({"x0": bicubic(x0, size), "mean": mean.d, "std": std.d})

    def guided(self, guidance: Guidance, codec: Codec) -> Guidance:
        return self.views | guidance

    def hooks(self) -> Sequence[Hook]:
        return [KeepStatistics(), *([] if self.residual is None else [self.residual])]
