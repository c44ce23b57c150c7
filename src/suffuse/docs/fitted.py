"""Pictures of the gallery by methods that are fitted while they are drawn: what sheets name as their task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor

from suffuse.claims import digits
from suffuse.core.cond import Cond
from suffuse.core.generation import Images
from suffuse.core.model import Model
from suffuse.guidance.cfg import CFG
from suffuse.guidance.gradient import GradientGuidance
from suffuse.guidance.optimisation import optimise
from suffuse.guidance.ppap import PPAP
from suffuse.guidance.rewards import NeuralReward, gradient_ascent
from suffuse.guidance.scorers import ClassScore, Clean
from suffuse.images import to_pil
from suffuse.zoo.recipes.digits import NULL, data


def by_experts(model: Model, prompt: str, *, experts: int, s: float, samples: Sequence[int]) -> Images:
    """A digit by the model without its classes and PPAP's experts of a classifier, or by the classifier itself.

    Args:
        model: `digits`.
        prompt: the digit.
        experts: how many; 0 is the classifier of clean digits.
        s: scale of the gradient.
        samples: identity of the noise.
    """
    clean = GradientGuidance(ClassScore(Clean(digits.classifier())), s)
    guidance = replace(_experts(model, experts), s=s) if experts else clean
    return model.generate(prompt, guidance=guidance | CFG(0.0), samples=samples)


@lru_cache(maxsize=2)
def _experts(model: Model, count: int) -> PPAP:
    null = Cond({"label": torch.tensor([NULL])})
    return PPAP.fit(digits.classifier(), model.denoiser, (1, 8, 8), count=count, pictures=1024, steps=500, batch=128,
                    lr=2e-3, cond=null)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """Pictures of no model."""

    images: list[Image.Image]


TARGETS = (0.0, 2.5, 5.0)


def with_ink(model: Model, *, row: int, target: float, ascent: bool = False) -> Drawn:
    """A digit that should have much ink, known of 64 digits only: drawn for a target, or climbed to from a digit.

    Args:
        model: is not used; what draws is fitted to the digits.
        row: which.
        target: ink, in standard deviations above the mean; one of `TARGETS`.
        ascent: by gradient ascent on a model of the ink instead, up to the ink of what is drawn for the target.
    """
    made, climbed = _optimised()
    x = (climbed if ascent else made)[TARGETS.index(target)][row]
    return Drawn(to_pil(x[None].expand(1, 3, 8, 8)))


@lru_cache(maxsize=1)
def _optimised(n: int = 8) -> tuple[list[Tensor], list[Tensor]]:
    pictures, _ = data()
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    labelled, started = pictures[order[:64]], pictures[order[64 : 64 + n]]
    ink = pictures.flatten(1).mean(1)

    def reward(x: Tensor) -> Tensor:
        return (x.flatten(1).mean(1) - ink.mean()) / ink.std()

    known = reward(labelled)
    found = optimise(pictures, labelled, known, targets=TARGETS, n=n, steps=1500)
    way = gradient_ascent(NeuralReward().fit(labelled, known), started, steps=300, rate=0.05)
    heights = torch.stack([reward(x).mean() for x in way])
    made = [c.x for c in found.candidates]
    return made, [way[int((heights < reward(x).mean()).sum().clamp(max=len(way) - 1))] for x in made]
