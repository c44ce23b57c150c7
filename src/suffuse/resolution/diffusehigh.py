"""DiffuseHigh: an enlarged, sharpened picture is noised a little and denoised, and keeps its coarse structure."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.codec import Codec
from ..core.cond import Cond
from ..core.guidance import Guidance
from ..core.registry import method
from .bands import Band, Blur, Wavelet
from .low_band import LowBand
from .progressive import Progressive, bicubic


@method(paper="diffusehigh")
@dataclass(frozen=True)
class DiffuseHigh(Progressive):
    """Phases of growing size: the guide I = u + sharpness (u - blur(u)) is the bicubically enlarged picture u, made
    sharper; its latents are noised and denoised, and in the first of these steps x0 gets the coarse part of the guide.

    Args:
        strength: share of the steps that a phase makes; the paper's 15 of 50.
        keep: share of the phase's steps with the exchange; the paper's 5 of 15.
        band: what is coarse, one level of db4 in the paper; None leaves the exchange out.
        latent: exchange it in latents, which needs no decoding and follows the guide less exactly.
        sharpness: 1 is the paper's, 0 leaves the picture as it is.
        blur: of the sharpening, of 3 x 3 pixels in the paper.
        around: guidance around that of the run, such as `MultiDiffusion()` for networks that cannot see large
            pictures; None is the paper's.

    Example:
        >>> model.generate("a red circle", height=128, width=128, upscale=DiffuseHigh())
        >>> model.upscale("circle.png", "a red circle", factor=2.5)

    Reference: Kim et al., DiffuseHigh: Training-free Progressive High-Resolution Image Synthesis through Structure
    Guidance, 2406.18459.

    Differs from the paper: any sampler instead of Euler's; the guidance is that of the run, 10 for SDXL in the paper;
    the blur has one width, which the official code draws from 0.1 to 2, and a guide is cut off at black and white.
    """

    strength: float = 0.3
    keep: float = 1 / 3
    band: Band | None = Wavelet()
    latent: bool = False
    sharpness: float = 1.0
    blur: Band = Blur(1.0, radius=1)
    around: Guidance | None = None

    def guide(self, codec: Codec, x0: Tensor, size: tuple[int, int]) -> Cond:
        factor = codec.space.factor
        u = bicubic(codec.decode(x0), (size[0] * factor, size[1] * factor))
        pixels = (u + self.sharpness * (u - self.blur.low(u))).clamp(-1, 1)
        return Cond({"x0": codec.encode(pixels)[0], "pixels": pixels})

    def guided(self, guidance: Guidance, codec: Codec) -> Guidance:
        if self.around is not None:
            guidance = self.around | guidance
        if self.band is None:
            return guidance
        return LowBand(self.band, None if self.latent else codec).during(0.0, self.keep) | guidance
