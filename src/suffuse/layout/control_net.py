"""A trainable copy of a UNet's encoder that reads a picture and adds what it finds to the decoder's inputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.inputs import dtype_of
from ..backbones.unet import told
from ..conditioning.given import Given
from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.model import Model
from ..core.patch import Adapter, Patch
from ..core.registry import method
from ..core.site import Site, Sites
from ..images import Picture, to_tensor


@method(paper="controlnet", tags=("control",))
@dataclass(frozen=True)
class ControlNet(Patch):
    """h_k <- h_k + w Z_k(E_k(x_t + g(picture), t, c)): a copy E of the encoder with a small network g for the picture
    and convolutions Z that begin at zero; its output is added to every skip and behind the middle block.

    The picture is `cond[entry]`, (B, channels, H, W) in [0, 1], resized to the pictures that the state stands for. It
    is cut with the state by `MultiDiffusion` and its like. w is the adapter's scale; several branches add up.

    Args:
        entry: of the condition.
        channels: of the picture.
        widths: of g, which halves the sides once for each width after the first: four where the autoencoder makes one
            entry of 8 x 8 pixels, three for the bundled models.

    Raises:
        Refused: a network that is no UNet with text. BadInput: a condition without the picture.

    Example:
        >>> branch = ControlNet().on(model.denoiser)  # trained as any adapter, or ControlNet.load("canny/")
        >>> controlled(model, branch.during(0.0, 0.5), "edges.png").generate("a red circle")

    Reference: Zhang et al., Adding Conditional Control to Text-to-Image Diffusion Models, 2302.05543.
    """

    entry: str = "control"
    channels: int = 3
    widths: tuple[int, ...] = (16, 32, 96, 256)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.entry,)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], entry: str = "control", dtype: torch.dtype = torch.float32
    ) -> Adapter:
        """The branch in a folder that diffusers wrote (ControlNetModel)."""
        from ..loading.parts import read_part

        return cls.of(read_part(Path(folder), "diffusers", "ControlNetModel", dtype, None), entry)

    @classmethod
    def of(cls, net: Any, entry: str = "control") -> Adapter:
        """The branch that a ControlNetModel of diffusers is."""
        patch = cls(entry, net.config.conditioning_channels, tuple(net.config.conditioning_embedding_out_channels))
        up = [f"up_blocks.{k}" for k in range(len(net.config.block_out_channels))]
        return Adapter(patch, {"conv_in": net, **{name: nn.Identity() for name in ("mid_block", *up)}})

    def sites(self, net: Sites) -> Sequence[Site]:
        """The entrance, the middle and the blocks of the decoder, each with the place of its skips among all."""
        entrance, middle = net.of("unit", role="in"), net.of("block", stage="mid")
        decoder = [site for site in net.of("block", stage="up") if "skips" in site.streams]
        if not (entrance and middle and decoder and net.attention("cross")):
            raise Refused(f"{self}: this network is no UNet with text; use a UNet2DConditionModel, such as that of SD1")
        counts = [len(site.module.resnets) for site in decoder]  # type: ignore[union-attr, arg-type]
        ends = [sum(counts[k:]) for k in range(len(counts))]
        placed = [replace(s, note=f"{end - n}:{end}") for s, n, end in zip(decoder, counts, ends, strict=True)]
        return [*entrance, *middle, *placed]

    def make(self, site: Site) -> nn.Module | None:
        """Nothing at one site alone: the copy is of the whole encoder; see `on`."""
        return None

    def on(self, net: Any) -> Adapter:
        """A branch to be trained, which adds nothing yet."""
        from diffusers import ControlNetModel

        while hasattr(net, "base"):
            net = net.base
        self.sites(net.sites)
        made = ControlNetModel.from_unet(
            net.net, conditioning_embedding_out_channels=self.widths, conditioning_channels=self.channels
        )
        return self.of(made.eval(), self.entry)

    def around(self, call: Call) -> Any:
        key = ("control", call.chain[call.level][0])
        if call.site.role == "in":
            call.scratch[key] = (call.rows, *self._found(call))
            return call()
        rows, skips, middle = call.scratch[key]
        index = torch.tensor([rows.index(row) for row in call.rows])
        if call.site.stage == "mid":
            out = call()
            return out + call.scale * middle[index].to(out)
        own = slice(*map(int, call.site.note.split(":")))
        mine = [
            skip + call.scale * found[index].to(skip) for skip, found in zip(call["skips"], skips[own], strict=True)
        ]
        return call(skips=tuple(mine))

    def _found(self, call: Call) -> tuple[Sequence[Tensor], Tensor]:
        """What the copy adds to each skip, and behind the middle."""
        net, cond, x = call.part, call.cond, call["image"]
        if self.entry not in cond:
            raise BadInput(f"cond[{self.entry!r}] is missing: {self} reads a picture; use controlled(model, ...)")
        x, t = x[:, : net.config.in_channels], call.process.timestep(call.t).tensor(len(x))
        size = [side * 2 ** (len(self.widths) - 1) for side in x.shape[-2:]]
        picture = cond[self.entry].to(x)
        if list(picture.shape[-2:]) != size:
            picture = F.interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False)
        how = {"controlnet_cond": picture.to(dtype_of(net)), "return_dict": False, **told(net, cond)}
        return net(x.to(dtype_of(net)), t.to(x.device, torch.float32), **how)


def controlled(model: Model, branch: Adapter, image: Picture | Sequence[Picture]) -> Model:
    """A view of a model that follows pictures: one for all, or one for each prompt.

    Args:
        model: a loaded model.
        branch: a `ControlNet` with its parameters, of any scale and part of the run.
        image: what it reads, such as edges, white on black.

    Example:
        >>> controlled(model, ControlNet.load("canny/").scaled(0.8), "edges.png").generate("a red circle")
    """
    (entry,) = branch.patch.reads
    return model.with_(branch).with_conditioner(Given(model.conditioner, {entry: to_tensor(image) / 2 + 0.5}))
