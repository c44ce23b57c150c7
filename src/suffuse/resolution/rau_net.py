"""A UNet whose deep blocks see the grid that they were trained at, whatever the size of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.registry import method
from ..core.site import Site, Sites
from .size_context import SizeContext

Window = tuple[float, float]
"""From and to which share of the run, as in `during`."""

NEVER: Window = (0.0, 0.0)


@method(paper="hidiffusion")
@dataclass(frozen=True)
class RAUNet(Patch):
    """Resolution-aware UNet: in an early part of the run its deep blocks see a smaller grid, their native one at 2x.

    One downsampler convolves with stride 4, padding 2 and dilation 2, which is the trained convolution on every second
    row and column, h <- down(h[::2, ::2]); in its mirror the upsampler interpolates to the size of the skip. For larger
    pictures a second stage pools, h <- avg_pool_2x2(h) behind the first layer of a block, and its mirror interpolates
    back bicubically ahead of the last one. Sides that do not divide come back at the size of the skip, too.

    Left at None, a stage is what the paper has for the size: none at the native area or below; strided until T1 = 0.4
    of the run; from 4x the side on until T1 = 0.7, pooled until T2 = 0.3. Where the first stage is not at the outermost
    level, as in SDXL, the stages exchange: strided until 0.16 and pooled from there until T1; from 4x the side on
    strided until T2, pooled until T1.

    Args:
        strided: window of the first stage at any size, in shares of the run; (0, 0) is never.
        pooled: window of the second stage.
        level: of the downsampler of the first stage, 0 is the outermost; None follows the network: the outermost level
            with attention, which is 0 in SD1.5 and SD2 and 1 in SDXL.

    Raises:
        BadInput: a window or level that cannot be. Refused: a network without down- and upsamplers.

    Example:
        >>> model.generate("a red circle", height=128, width=128, patches=[RAUNet(), MSWMSA()])

    Reference: Zhang et al., HiDiffusion: Unlocking High-Resolution Creativity and Efficiency in Low-Resolution Trained
    Diffusion Models, 2311.17528.

    Differs from the paper: sizes up to the native area are left alone; levels follow from the network instead of a
    list of released ones.
    """

    strided: Window | None = None
    pooled: Window | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        for window in (self.strided, self.pooled):
            if window is not None and not 0.0 <= window[0] <= window[1] <= 1.0:
                raise BadInput(f"{self}: a window is two shares of the run; give 0 <= from <= to <= 1")

    def neutral(self) -> RAUNet:
        """Neither stage."""
        return replace(self, strided=NEVER, pooled=NEVER)

    def sites(self, net: Sites) -> Sequence[Site]:
        downs, ups = net.of("unit", role="down"), net.of("unit", role="up")[::-1]
        if not downs or len(downs) != len(ups):
            raise Refused(f"{self}: this network has no down- and upsamplers in pairs; use a UNet")
        level = min(_outermost(net), len(downs) - 1) if self.level is None else self.level
        if not 0 <= level < len(downs):
            raise BadInput(f"{self}: this UNet has downsamplers at levels 0 to {len(downs) - 1}; give one of them")
        found = [replace(net.root, note="inner" if level else "")]
        for k, (down, up) in enumerate(zip(downs, ups, strict=True)):
            found += [replace(down, note=f"{'stride' if k == level else 'down'} {k}"), replace(up, note=f"up {k}")]
        encoder = net.of("block", stage="down")[1]
        decoder = net.of("block", stage="up")[-2]
        pool, unpool = _layers(net, encoder)[0], _layers(net, decoder)[-2]
        return [*found, replace(pool, note="pool"), replace(unpool, note="unpool")]

    def around(self, call: Call) -> Any:
        if call.site.kind == "root":
            call.scratch[RAUNet] = self._stages(SizeContext.at(call), call.site.note == "inner")
            return call()
        strided, pooled = call.scratch[RAUNet]
        if not (strided or pooled):
            return call()
        action, _, level = call.site.note.partition(" ")
        match action:
            case "up":
                size = call.scratch.get((RAUNet, level))  # a cache may have left the encoder out
                return call() if size is None else call(output_size=size)
            case "pool" if pooled:
                out = call()
                call.scratch[RAUNet, "pool"] = _image(out).shape[-2:]
                return _with_image(out, F.avg_pool2d(_image(out), 2, ceil_mode=True))
            case "unpool" if pooled:
                out = call()
                size = call.scratch.get((RAUNet, "pool"))
                return out if size is None else _with_image(out, F.interpolate(_image(out), size, mode="bicubic"))
            case "down" | "stride":
                h = call["image"]
                call.scratch[RAUNet, level] = h.shape[-2:]
                return call(image=h[..., ::2, ::2]) if strided and action == "stride" else call()
        return call()

    def _stages(self, size: SizeContext, inner: bool) -> tuple[bool, bool]:
        """Whether each stage is on."""
        own = _windows(size, inner)
        windows = (o if given is None else given for given, o in zip((self.strided, self.pooled), own, strict=True))
        strided, pooled = (size.during(*window) for window in windows)
        return strided, pooled


def _outermost(net: Sites) -> int:
    """The level of the first block of the encoder that attends; 0 where none does."""
    blocks = [block.name for block in net.of("block", stage="down")]
    names = [site.name for site in net.attention()]
    return next((k for k, block in enumerate(blocks) if any(name.startswith(f"{block}.") for name in names)), 0)


def _windows(size: SizeContext, inner: bool) -> tuple[Window, Window]:
    """The paper's windows of both stages for this size."""
    if size.area <= 1.0:
        return NEVER, NEVER
    if size.side < 4.0:
        return ((0.0, 0.16), (0.16, 0.4)) if inner else ((0.0, 0.4), NEVER)
    return ((0.0, 0.3), (0.0, 0.7)) if inner else ((0.0, 0.7), (0.0, 0.3))


def _layers(net: Sites, block: Site) -> list[Site]:
    """The last unit of each layer of a block: the transformer behind a resnet, or the resnet."""
    units = [s for s in net.units if s.name.startswith(f"{block.name}.") and s.role in ("resnet", "transformer")]
    return [s for s, after in zip(units, [*units[1:], None], strict=True) if after is None or after.role == "resnet"]


def _image(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def _with_image(out: Any, image: Tensor) -> Any:
    return (image, *out[1:]) if isinstance(out, tuple) else image
