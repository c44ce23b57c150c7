"""How a model was released: how it is run where nothing else is said, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .arguments import whole
from .conditioner import Size
from .errors import BadInput
from .grid import Spacing
from .guidance import Guidance
from .hook import Hook
from .sampler import Sampler


@dataclass(frozen=True)
class Defaults:
    """How a model is run where nothing else is said.

    Args:
        sampler, spacing, steps, guidance: of a run.
        guide: the guidance that a number means, such as `CFG`.
        size: height and width in pixels.
        multiple: both must be divisible by it.
        inpainting: hook that keeps a part of the picture, reading `cond.alt["known"]`; None where the network itself
            takes the mask and the picture.
    """

    sampler: Sampler
    spacing: Spacing
    steps: int
    guidance: Guidance
    guide: Callable[[float], Guidance]
    size: Size
    multiple: int
    inpainting: Hook | None

    def guided_by(self, guidance: Guidance | float | None) -> Guidance:
        """A guidance as it is, what a scale means to this model, or its default."""
        if guidance is None or isinstance(guidance, Guidance):
            return guidance or self.guidance
        if isinstance(guidance, bool) or not isinstance(guidance, (int, float)) or not math.isfinite(guidance):
            raise BadInput(f"guidance={guidance!r}: must be a guidance such as CFG(5), or its scale")
        return self.guide(float(guidance))

    def near(self, size: Sequence[float]) -> Size:
        """The nearest size that can be made."""
        k = self.multiple
        height, width = (max(1, round(side / k)) * k for side in size)
        return height, width

    def sized(self, height: int | None, width: int | None, own: Sequence[float] | None = None) -> Size:
        """The size asked for; a side that is not is as near as can be to that of `own`, or the model's."""
        usual = self.size if own is None else self.near(own)
        size = (
            usual[0] if height is None else whole("height", height),
            usual[1] if width is None else whole("width", width),
        )
        if any(side % self.multiple for side in size):
            near = self.near(size)
            raise BadInput(
                f"height={size[0]}, width={size[1]}: must be multiples of {self.multiple}; "
                f"the nearest are {near[0]} and {near[1]}"
            )
        return size


@dataclass(frozen=True)
class Layout:
    """How the model is written in diffusers' layout.

    Args:
        pipeline: name of its pipeline class.
        net: the denoising network's name in it, "unet" or "transformer".
        scheduler: its scheduler's configuration.
        others: further entries of model_index.json.
    """

    pipeline: str
    net: str
    scheduler: Mapping[str, Any]
    others: Mapping[str, Any] = field(default_factory=dict)
