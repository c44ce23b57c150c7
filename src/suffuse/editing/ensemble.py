"""Many edits of the same pictures, of which a scorer picks the best for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..core.arguments import listed
from ..core.errors import BadInput
from ..core.model import Model
from ..core.registry import method
from ..core.sampler import Sampler
from ..images import Picture, to_pil, to_tensor
from ..samplers.ancestral import DDIM
from .cyclediffusion import CycleDiffusion
from .inverter import Inverter
from .task import edit

Rank = Callable[[Tensor, Tensor, Sequence[str], Sequence[str]], Tensor]
"""(pictures before, after (B, 3, H, W) in [-1, 1], prompts before, after) -> (B,), the higher the better."""


@dataclass(frozen=True)
class Member:
    """How one edit was made."""

    inversion: Inverter
    guidance: float
    seed: int


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What `edit_ensemble` returns.

    Attributes:
        images: the best edit of each picture.
        members: how the edits were made.
        pixels: (m, B, 3, H, W) all of them.
        scores: (m, B).
    """

    images: list[Image.Image]
    members: list[Member]
    pixels: Tensor
    scores: Tensor

    @property
    def ranking(self) -> Tensor:
        """(m, B) members for each picture, the best first; of equals the earlier."""
        return self.scores.argsort(dim=0, descending=True, stable=True)

    def chosen(self, row: int) -> Member:
        """How the best edit of a picture was made."""
        return self.members[int(self.ranking[0, row])]


@method(paper="cyclediffusion", tags=("editing", "selection"))
def edit_ensemble(
    model: Model,
    image: Picture | Sequence[Picture],
    source: str | Sequence[str],
    target: str | Sequence[str],
    *,
    rank: Rank,
    inversions: Sequence[Inverter] = (CycleDiffusion(strength=0.85), CycleDiffusion(strength=0.7)),
    scales: Sequence[float] = (1.0, 2.0, 3.0, 5.0),
    seeds: Sequence[int] = tuple(range(15)),
    editor: Any = (),
    steps: int = 100,
    sampler: Sampler = DDIM(eta=0.1),
) -> Ensemble:
    """Edit pictures with every inversion, scale and seed, and keep the best edit of each.

    Args:
        model, image, source, target, editor, steps, sampler: of `edit`.
        rank: what is best; the paper takes the directional CLIP score.
        inversions, scales, seeds: whose combinations are tried; the more noise a code holds, the more seeds differ.

    Raises:
        BadInput: nothing to try.

    Example:
        >>> best = edit_ensemble(model, "cat.png", "a cat", "a dog", rank=directional, seeds=range(4))
        >>> best.images[0], best.chosen(0)

    Reference: Wu and De la Torre, Unifying Diffusion Models' Latent Space, 2210.05559.
    """
    members = [Member(*each) for each in product(inversions, scales, seeds)]
    if not members:
        raise BadInput("inversions, scales, seeds: one of them is empty; give at least one of each")
    before, sources, targets = to_tensor(image), listed(source), listed(target)
    edits = [
        edit(
            model, before, sources, targets, inversion=m.inversion, guidance=m.guidance, seed=m.seed, editor=editor,
            steps=steps, sampler=sampler,
        )
        for m in members
    ]  # fmt: skip
    pixels = torch.stack([model.decode(e.decoded.target).clamp(-1, 1) for e in edits])
    scores = torch.stack([rank(before, after, sources, targets) for after in pixels])
    best = pixels[scores.argmax(0), torch.arange(pixels.shape[1])]
    return Ensemble(to_pil(best), members, pixels, scores)
