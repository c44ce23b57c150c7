"""More training pictures for a classifier: variants of real ones, and what they are worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..evaluation import statistics
from ..evaluation.statistics import Estimate

Classify: TypeAlias = Callable[[Tensor], Tensor]
Vary: TypeAlias = Callable[[Tensor, int], Tensor]
Learn: TypeAlias = Callable[[Tensor, Tensor], Classify]


@dataclass(frozen=True)
class AugmentationReport:
    """Accuracies on the same test pictures.

    Attributes:
        real: of a classifier of the real pictures alone.
        augmented: of one of the real pictures and their variants.
        gain: the second minus the first, paired by test picture.
    """

    real: Estimate
    augmented: Estimate
    gain: Estimate


def augmentation_report(
    pictures: Tensor, labels: Tensor, test: tuple[Tensor, Tensor], vary: Vary, learn: Learn, variants: int = 4
) -> AugmentationReport:
    """Trains a classifier with and without variants of its pictures, and compares both on others.

    Args:
        pictures, labels: (N, 3, H, W) and (N,) to learn from.
        test: pictures and labels that it is judged by.
        vary: (pictures, k) -> their k-th variants (N, 3, H, W), which keep their labels; such as a model's pictures of
            the embeddings of real ones.
        learn: (pictures, labels) -> classifier, which maps (M, 3, H, W) to (M,) labels.
        variants: of each picture.

    Raises:
        BadInput: no variants.
    """
    if variants < 1:
        raise BadInput(f"variants={variants}: give 1 or more")
    more = torch.cat([pictures, *(vary(pictures, k) for k in range(variants))])
    sets = {"real": (pictures, labels), "augmented": (more, labels.repeat(1 + variants))}
    right = {name: (learn(*known)(test[0]) == test[1]).numpy() for name, known in sets.items()}
    return AugmentationReport(
        real=statistics.proportion(right["real"]),
        augmented=statistics.proportion(right["augmented"]),
        gain=statistics.difference(right["augmented"].astype(float), right["real"].astype(float)),
    )
