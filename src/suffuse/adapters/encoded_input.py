"""An encoded picture as a further input of a UNet: channels of the first layer that begin at zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import nn

from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.registry import method
from ..core.site import Site, Sites


@method(paper="zoomed-in", tags=("control",))
@dataclass(frozen=True)
class EncodedInput(Patch):
    """y = W x + s W' z: the first layer of a UNet sees the encoded picture z beside the state x, with W' zero at first.

    z is "encoded" (B, channels, h, w) of the condition, resized to the state; `MultiDiffusion` and its like cut it with
    the state. This is a first layer with more channels, but the network stays as it is. Trained together with the
    network, or with a LoRA, it follows a picture much sooner than a branch beside a frozen network, and no evaluation
    costs more.

    Args:
        channels: of z.

    Raises:
        Refused: a network that is no UNet. BadInput: a condition without z, or with other channels.

    Example:
        >>> net = copy.deepcopy(model.denoiser)
        >>> wide = EncodedInput().on(net)
        >>> roles = {"model": net.with_(wide), "net": net, "wide": wide}
        >>> trainer = Trainer(roles, Phase(Denoising(dropout=0.1), trains=("net", "wide")))

    Reference: Brooks et al., InstructPix2Pix: Learning to Follow Image Editing Instructions, 2211.09800, section 3.2.
    """

    channels: int = 4

    reads = ("encoded",)

    def sites(self, net: Sites) -> Sequence[Site]:
        """The first layer."""
        found = net.of("unit", stage="in")
        if not found or not isinstance(found[0].module, nn.Conv2d):
            raise Refused(f"{self}: this network begins with no convolution; use a UNet")
        return found

    def make(self, site: Site) -> nn.Module:
        """W', zero."""
        first: Any = site.module
        more = nn.Conv2d(self.channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=False)
        nn.init.zeros_(more.weight)
        return more

    def around(self, call: Call) -> Any:
        x, z = call["image"], call.cond.get("encoded")
        if z is None or z.shape[1] != self.channels:
            given = "missing" if z is None else f"of shape {tuple(z.shape)}"
            raise BadInput(
                f"cond['encoded'] is {given}: {self} reads an encoded picture; give {self.channels} channels"
            )
        if z.shape[2:] != x.shape[2:]:
            z = F.interpolate(z, x.shape[2:], mode="bilinear", antialias=True, align_corners=False)
        return call() + call.scale * call.part(z.to(x))
