"""Marks for edits from 1 to 10, as the survey's LMM score weighs them, given by reader and region without any chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadInput
from ..evaluation.features import load_reader
from ..evaluation.image import PSNR
from ..evaluation.pictures import Pictures
from ..world import parse
from ..zoo.judge import judge
from ..zoo.reader import Reading
from .edit_case import EditCase

FACTORS = {"accuracy": 0.4, "preservation": 0.3, "quality": 0.2, "realism": 0.1}
"""What is marked, and what it weighs in the sum."""

LOW, HIGH = 1.0, 10.0
PASSABLE, EXCELLENT = 10.0, 40.0
"""PSNR outside of the region, in dB, that is worth the lowest and the highest mark of preservation."""

REACH, BLURRED = 9, 0.2
"""Pixels of the further blur of `blur`, and the change of it that is worth the lowest mark of quality."""


@dataclass(frozen=True, eq=False)
class Marks:
    """S = 0.4 accuracy + 0.3 preservation + 0.2 quality + 0.1 realism, each (B,) from 1 to 10."""

    accuracy: Tensor
    preservation: Tensor
    quality: Tensor
    realism: Tensor

    @property
    def total(self) -> Tensor:
        """(B,) from 1 to 10."""
        parts = [weight * getattr(self, name) for name, weight in FACTORS.items()]
        return torch.stack(parts).sum(0)


class EditJudge(Protocol):
    """Marks one edit of every case."""

    def __call__(self, cases: Sequence[EditCase], images: Tensor) -> Marks:
        """Marks of images (B, 3, H, W) in [-1, 1]."""


@dataclass(frozen=True)
class ReaderJudge:
    """The LMM score where a reader stands for the multimodal model; for pictures of the world.

    Accuracy is how sure the reader is of all that the target says. Preservation is PSNR outside of the region against
    the picture before, 10 dB to 40 dB; an edit that may change everything keeps enough. Quality falls with the change
    of `blur` against the picture before, to either side. Realism is how sure the reader is of the objects that it sees.

    Example:
        >>> cases = EditEval(1)[:]
        >>> ReaderJudge()(cases, torch.stack([c.truth for c in cases])).total

    Reference: Huang et al., Diffusion Model-Based Image Editing: A Survey, 2402.17525.

    Differs from the paper: no language model looks; the four factors and their weights are the paper's.
    """

    def __call__(self, cases: Sequence[EditCase], images: Tensor) -> Marks:
        if len(cases) != len(images):
            raise BadInput(f"images: {len(images)} for {len(cases)} cases; give one each")
        before, mask = torch.stack([c.image for c in cases]).to(images), torch.stack([c.mask for c in cases])
        reader, _ = load_reader(None)
        with torch.no_grad():
            seen = reader.read(images)
        return Marks(
            accuracy=_mark(judge(seen, [parse(c.target) for c in cases]).whole.score.double()),
            preservation=_mark((_kept(before, images, mask) - PASSABLE) / (EXCELLENT - PASSABLE)),
            quality=_mark(1 - (blur(images) - blur(before)).abs() / BLURRED),
            realism=_mark(_certain(seen)),
        )


def blur(images: Tensor) -> Tensor:
    """(B,) from 0, sharp, to 1: how little a further blur takes away from the differences of neighbours.

    Reference: Crete et al., The blur effect: perception and estimation with a new no-reference perceptual blur metric,
    2007.

    Differs from the paper: both directions are summed, where the paper takes the worse one.
    """
    grey = images.double().mean(1, keepdim=True)
    whole, lost = torch.zeros(2, len(images), dtype=torch.float64)
    for axis, size in ((2, (REACH, 1)), (3, (1, REACH))):
        rows, columns = (side // 2 for side in size)
        smooth = F.avg_pool2d(F.pad(grey, (columns, columns, rows, rows), mode="replicate"), size, 1)
        own, left = (v.diff(dim=axis).abs() for v in (grey, smooth))
        whole, lost = whole + own.sum((1, 2, 3)), lost + (own - left).clamp(min=0).sum((1, 2, 3))
    return 1 - lost / whole.clamp(min=torch.finfo(whole.dtype).tiny)


def _kept(before: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """(B,) PSNR outside of the region; where it is everything, as if all were kept."""
    found, partial = torch.full((len(images),), EXCELLENT, dtype=torch.float64), (~mask).flatten(1).any(1)
    if bool(partial.any()):
        found[partial] = PSNR("outside").score(Pictures(images[partial], (), before[partial], mask[partial]))
    return found


def _certain(seen: Reading) -> Tensor:
    """(B,) mean over the objects seen of the chance of their shape and colour; 0 where nothing is seen."""
    sure = (seen.shape.amax(2) * seen.colour.amax(2) * seen.present).double()
    return sure.sum(1) / seen.present.sum(1).clamp(min=1)


def _mark(share: Tensor) -> Tensor:
    """From a share of 0 to 1."""
    return LOW + (HIGH - LOW) * share.clamp(0, 1)
