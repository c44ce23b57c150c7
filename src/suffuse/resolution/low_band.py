"""A prediction whose coarse part is that of a guide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.codec import Codec
from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value
from .bands import Band, Wavelet

GUIDE = "guide"
"""Alternative of the condition that holds, for each sample, the picture that a larger one follows."""


def guide_of(plugin: object, cond: Cond, *entries: str) -> Cond:
    """The guide, which must have these entries."""
    guide = cond.alt.get(GUIDE, Cond())
    missing = [name for name in entries if name not in guide]
    if missing:
        raise BadInput(
            f"{type(plugin).__name__}: cond.alt[{GUIDE!r}] has no {missing[0]!r}; give "
            f"cond.with_alt({GUIDE}=Cond(...)), or run it through model.upscale"
        )
    return guide


@method(paper="diffusehigh")
@dataclass(frozen=True)
class LowBand(Guidance):
    """x0' = x0 + low(guide - x0): the coarse part of the predicted picture is replaced by that of a guide.

    In latents the guide is `cond.alt["guide"]["x0"]`, of the state's shape. With a codec the exchange is made in
    pixels, x0' = E(D(x0) + low(guide - D(x0))), with `cond.alt["guide"]["pixels"]`. As it corrects the prediction, it
    holds for every solver and every kind of network output. `.during(a, b)` makes it a part of the run.

    Args:
        band: what is coarse.
        codec: None is the latent variant, which costs nothing.

    Raises:
        BadInput: there is no guide.

    Example:
        >>> sample(denoiser, x, guidance=LowBand().during(0.7, 0.8) | CFG(5), cond=cond.with_alt(guide=Cond({"x0": z})))

    Reference: Kim et al., DiffuseHigh: Training-free Progressive High-Resolution Image Synthesis through Structure
    Guidance, 2406.18459.
    """

    band: Band = Wavelet()
    codec: Codec | None = None

    needs = Needs.GAUSSIAN
    evaluations = 1

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        p = predict(x, t, cond)
        if self.codec is None:
            return p.with_(x0=p.x0 + self.band.low(guide_of(self, cond, "x0")["x0"] - p.x0))
        guide, pixels = guide_of(self, cond, "pixels")["pixels"], self.codec.decode(p.x0)
        return p.with_(x0=self.codec.encode(pixels + self.band.low(guide - pixels))[0])
