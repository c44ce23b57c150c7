"""ADM: the UNet of guided-diffusion, with or without classes, and its upsamplers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.family import Family
from ..core.site import Site
from .unet import PlainUNet

UNET = PlainUNet()
"""What it is but for the sources of its upsamplers and blocks that resample."""


class ADM(Family):
    """UNet with adaptive group normalisation; a learned variance stays in its output, for `LearnedVariance`.

    Cond entries: "label" (B,) where it has classes, all of them real ones; "source" (B, C, h, w) for upsamplers, the
    picture to enlarge, which is brought to the size of the state bilinearly.

    Reference: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, 2105.05233.
    """

    name = "ADM"
    reads = ("label", "source")

    def accepts(self, net: nn.Module) -> bool:
        return type(net).__name__ == "ADMUNet"

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        if "source" in cond and cond["source"].shape[2:] != x.shape[2:]:
            cond = cond | {"source": F.interpolate(cond["source"].to(x), x.shape[2:], mode="bilinear")}
        return UNET.call(net, x, timestep, cond)

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        for site in UNET.blocks(net):
            resamples = site.role in ("down", "up") and type(site.module).__name__ == "ResnetBlock2D"
            yield replace(site, streams={**site.streams, "image": "input_tensor"}) if resamples else site

    def shape(self, net: Any) -> tuple[int, ...]:
        return (net.config.channels, net.config.image_size, net.config.image_size)
