"""SPICE: a part of a picture of any size, remade at the model's own size in two stages and stitched back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..conditioning.given import Given
from ..core.errors import BadInput
from ..core.hook import Hook
from ..core.model import Model
from ..core.registry import method
from ..images import Picture, to_tensor
from ..resolution.tiles import Box
from ..samplers.ancestral import EulerAncestral
from .session import PictureEdit
from .stages import NoiseLevelMask, Stage


@method(paper="spice", tags=("editing", "inpainting"))
@dataclass(frozen=True)
class SPICE(PictureEdit):
    """The bounding box of the mask, dots included, is resized to the model's size, noised, and denoised under a soft
    mask, the first k steps by a control model and the rest by the model itself; then it is resized and stitched back.

    A pixel is free once the noise level falls below its value in the blurred mask. Tiny spots of the mask are context
    dots: they make the box larger and are not edited. What the user drew is where the noise is put on.

    Args:
        prompt: what the picture shows in the end.
        control_steps: k, steps under control, where a control is given.
        steps: of the full grid.
        strength: share of the steps that are made.
        blur: width of the mask's border, in pixels of the resized crop.
        dot: most pixels of a context dot.
        guidance: scale.
        seed: of the noise.

    Raises:
        BadInput: a mask without anything but dots.

    Example:
        >>> session = EditSession.of("room.png")
        >>> session.do(SPICE("a room with a red chair"), model, "mask.png", hint="drawn.png").image
        >>> control = Stage(model.denoiser.with_(ControlNet.load("canny/")), sees=lambda v: {"control": canny(v)})
        >>> session.do(SPICE("a room with a red chair"), model, "mask.png", hint="drawn.png", control=control).image

    Reference: Tang et al., SPICE: A Synergistic, Precise, Iterative, and Customizable Image Editing Workflow,
    2504.09697.

    Differs from the paper: the control is any `Stage`, and sees what it likes of the hinted crop, such as its edges by
    `canny`; none is bundled.
    """

    prompt: str
    control_steps: int = 5
    steps: int = 30
    strength: float = 0.9
    blur: float = 15.0
    dot: int = 16
    guidance: float = 7.0
    seed: int = 0

    def apply(self, model: Model, pixels: Tensor, mask: Tensor, hint: Tensor, control: Stage | None) -> Tensor:
        box, region = bounding_box(mask), without_dots(mask, self.dot)
        size = at_least(box, model.defaults.size, model.defaults.multiple)
        first = self.steps - int(self.steps * self.strength)
        soft, drawn = blurred(_resized(box.of(region), size), self.blur), _resized(box.of(hint), size)
        controlled: list[Hook] = []
        if control is not None:
            controlled = [control.during(0.0, (first + self.control_steps) / self.steps)]
            model = model.with_conditioner(Given(model.conditioner, {}, control.told(drawn)))
        made = model.generate(
            self.prompt, image=drawn, mask_image=soft, strength=self.strength, steps=self.steps,
            guidance=self.guidance, sampler=EulerAncestral(), hooks=[*controlled, NoiseLevelMask()], seed=self.seed,
        )  # fmt: skip
        out, crop = pixels.clone(), _resized(to_tensor(made.images), (box.height, box.width))
        box.add(out, (box.of(region) > 0) * (crop - box.of(pixels)))
        return out


def extended(image: Picture, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> tuple[Tensor, Tensor]:
    """A picture on a larger canvas, (1, 3, H, W) with its border pixels carried on, and the mask of what is new.

    Args:
        image: the picture.
        left, top, right, bottom: pixels to add.

    Example:
        >>> wider, mask = extended("room.png", right=128)
        >>> EditSession.of(wider).do(SPICE("a room with a window"), model, mask).image
    """
    pixels, sides = to_tensor(image), (left, right, top, bottom)
    return F.pad(pixels, sides, mode="replicate"), F.pad(torch.zeros_like(pixels[:, :1]), sides, value=1.0)


def bounding_box(mask: Tensor) -> Box:
    """The smallest box around all that a mask (1, 1, H, W) marks."""
    marked = mask[0, 0] > 0
    if not bool(marked.any()):
        raise BadInput("mask: is empty; paint what is to change white")
    rows, columns = (marked.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    return Box(rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)


def without_dots(mask: Tensor, dot: int) -> Tensor:
    """The mask without its spots of at most `dot` pixels."""
    spots, count = ndimage.label((mask[0, 0] > 0).numpy(), structure=[[1, 1, 1]] * 3)
    sizes = torch.from_numpy(spots).flatten().bincount(minlength=count + 1)
    large = sizes > dot
    large[0] = False
    if not bool(large.any()):
        raise BadInput(f"mask: has spots of at most {dot} pixels alone, which are context dots; paint more")
    return mask * large[torch.from_numpy(spots).long()]


def at_least(box: Box, native: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Height and width of a crop, enlarged until its longer side is the model's, and rounded up to what it takes."""
    scale = max(1.0, max(native) / max(box.height, box.width))
    height, width = (multiple * max(1, math.ceil(scale * side / multiple)) for side in (box.height, box.width))
    return height, width


def blurred(mask: Tensor, width: float) -> Tensor:
    """A mask whose border is spread by a Gaussian of standard deviation width / 3."""
    if width <= 0:
        return mask
    sigma, radius = width / 3, math.ceil(width)
    u = torch.arange(-radius, radius + 1, dtype=mask.dtype)
    bell = torch.exp(-0.5 * (u / sigma) ** 2)
    bell = bell / bell.sum()
    padded = F.pad(mask, [radius] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, bell[None, None, :, None]), bell[None, None, None, :]).clamp(0, 1)


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    low = 0.0 if pixels.shape[1] == 1 else -1.0
    return F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(low, 1.0)
