"""Edits for the gallery: tasks that are values or sessions, called as a sheet calls its functions."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from suffuse.core.model import Model
from suffuse.editing.brush import diffusion_brush
from suffuse.editing.layers import Canvas
from suffuse.editing.task import Edits


def by_region(model: Model, image: Image.Image, source: str, region: Tensor, how: Any, **settings: Any) -> Edits:
    """A task that is a value, such as `DragonDiffusion(Move(16, 0))`, on the first object."""
    return how(model, image, source, mask=region, **settings)


class Painted:
    """What a sheet shows of a canvas."""

    def __init__(self, canvas: Canvas):
        self.images = [canvas.image]


def brushed(
    model: Model, image: Image.Image, source: str, target: str, region: Tensor, start: float, **settings: Any
) -> Painted:
    """One soft stroke over the first object and a little around it."""
    soft = F.avg_pool2d(F.max_pool2d(region, 11, 1, 5), 7, 1, 3)
    return Painted(diffusion_brush(model, source, image, **settings).paint(soft, start, prompt=target))
