"""Photographs found in a model and made again: how much of a picture of the user's an inversion gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..core.errors import BadInput, SuffuseError
from ..core.expression import unparse
from ..core.metric import Metric
from ..core.model import Model
from ..core.sampler import Sampler
from ..evaluation.image import PSNR, SSIM
from ..evaluation.pictures import Pictures
from ..evaluation.report import evaluate
from ..images import to_tensor
from ..samplers.ancestral import DDIM
from .inverter import Inverter

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
"""Photographs that scikit-image brings with it."""


def photographs(size: tuple[int, int]) -> Tensor:
    """(4, 3, H, W): scikit-image's photographs, the middle cut to the proportions of `size` and resized."""
    try:
        import skimage
    except ImportError:
        raise BadInput("photographs: scikit-image is not installed; pip install 'suffuse[image]'") from None
    folder = Path(skimage.__file__).parent / "data"
    return torch.cat([to_tensor(middle(Image.open(folder / name), size), size) for name in NAMES])


def middle(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest middle part of a picture that has the proportions of (height, width)."""
    scale = min(image.width / size[1], image.height / size[0])
    width, height = round(size[1] * scale), round(size[0] * scale)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def reconstructions(
    model: Model,
    images: Tensor,
    inversions: Sequence[Inverter],
    *,
    metrics: Sequence[Metric] = (PSNR(), SSIM()),
    steps: int = 20,
    sampler: Sampler = DDIM(),
    seed: int = 0,
) -> list[Mapping[str, Any]]:
    """For the codec alone, and for every inversion under an empty prompt, how near the picture it comes back.

    Args:
        model: a loaded model.
        images: (B, 3, H, W) in [-1, 1].
        inversions: the methods.
        metrics: against the pictures; LPIPS may be added.
        steps, sampler, seed: of the runs.
    """
    blank = [""] * len(images)

    def made(inverter: Inverter) -> Tensor:
        edits = model.edit(
            images, blank, blank, inversion=inverter, editor=(), steps=steps, sampler=sampler, seed=seed, guidance=1.0
        )
        return model.decode(edits.decoded.source)

    rows: list[Mapping[str, Any]] = [_measured("codec alone", model.decode(model.encode(images)), images, metrics)]
    for inverter in inversions:
        name = unparse(inverter)
        try:
            rows.append(_measured(name, made(inverter), images, metrics))
        except SuffuseError as error:
            rows.append({"inversion": name, "refused": str(error), "figures": {}})
    return rows


def _measured(name: str, made: Tensor, images: Tensor, metrics: Sequence[Metric]) -> Mapping[str, Any]:
    pictures = Pictures(made.clamp(-1, 1).float().cpu(), (), images)
    return {"inversion": name, "refused": "", "figures": evaluate(pictures, metrics).record()}
