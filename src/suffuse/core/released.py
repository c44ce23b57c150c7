"""How a model was released: how it is run where nothing else is said, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .conditioner import Size
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
