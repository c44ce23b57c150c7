"""ImageSelect: several candidates of a prompt, of which a scorer picks the most faithful."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..core.arguments import whole
from ..core.errors import BadInput
from ..core.model import Model
from ..core.recipe import Recipe, hash_of
from ..core.registry import method
from .questions import Question, Scorer, Scores

Cache = MutableMapping[tuple[str, str, str], tuple[float, tuple[str, ...]]]
"""(scorer, prompt, picture) -> score and answers."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Candidates of a prompt, the best first.

    Attributes:
        images: PIL images.
        pixels: (m, 3, H, W) the same.
        scores: (m,) what the scorer gave each.
        answers: of each candidate, to `questions`, where the scorer asks any.
        questions: asked of every candidate.
        samples: identity of each candidate; `model.generate(prompt, samples=[k])` makes it again.
        recipes: what rebuilds each.
        nfe: network evaluations spent on all of them.
    """

    images: list[Image.Image]
    pixels: Tensor
    scores: Tensor
    answers: list[tuple[str, ...]]
    questions: tuple[Question, ...]
    samples: list[int]
    recipes: list[Recipe]
    nfe: int


@method(paper="imageselect", tags=("selection",))
def select(
    model: Model,
    prompt: str,
    *,
    scorer: Scorer,
    n: int = 4,
    batch: int = 4,
    enough: float | None = None,
    cache: Cache | None = None,
    **settings: Any,
) -> Selection:
    """Make candidates of a prompt with noise 0, 1, 2, ..., score each, and rank them.

    Candidates come `batch` at a time, and no more are made once one is good enough. Whatever else makes pictures
    better goes into `settings`: selection works on top of every other method.

    Args:
        model: that makes them.
        prompt: what they are to show.
        scorer: `TIFASelect`, `RewardSelect`, or a sum of several.
        n: candidates at most, 1 and more; 4 to 10 in the paper.
        batch: made at once.
        enough: score at which to stop; default the scorer's own best (all questions right), if it has one.
        cache: scores of pictures that were scored before; pass the same one again to fill it.
        settings: of `model.generate`, such as `seed`, `steps`, `guidance`, `patches`.

    Raises:
        BadInput: n or batch below 1.

    Example:
        >>> found = select(model, "a red circle left of a blue square", scorer=TIFASelect(), n=8)
        >>> found.images[0].save("best.png")

    Reference: Karthik et al., If at First You Don't Succeed, Try, Try Again: Faithful Diffusion-based Text-to-Image
    Generation by Selection, 2305.13308.

    Differs from the paper: it stops early.
    """
    n, batch = whole("n", n), whole("batch", batch)
    enough = scorer.best if enough is None else enough
    made, scores = [], []
    for first in range(0, n, batch):
        ids = range(first, min(first + batch, n))
        part = model.generate([prompt] * len(ids), samples=ids, **settings)
        pixels = model.decode(part.latents).clamp(-1, 1)
        made.append((part, pixels, list(ids)))
        scores.append(_scored(scorer, pixels, prompt, {} if cache is None else cache))
        if enough is not None and max(s for s, _ in scores[-1]) >= enough:
            break
    flat = [found for part in scores for found in part]
    order = sorted(range(len(flat)), key=lambda k: -flat[k][0])  # of equals the first stays first

    def ranked(values: Sequence[Any]) -> list[Any]:
        return [values[k] for k in order]

    return Selection(
        images=ranked([image for part, *_ in made for image in part.images]),
        pixels=torch.cat([pixels for _, pixels, _ in made])[order],
        scores=torch.tensor(ranked([score for score, _ in flat])),
        answers=ranked([answers for _, answers in flat]),
        questions=scorer.questions(prompt),
        samples=ranked([k for *_, ids in made for k in ids]),
        recipes=ranked([recipe for part, *_ in made for recipe in part.recipes]),
        nfe=sum(int(part.nfe.sum()) for part, *_ in made),
    )


def _scored(scorer: Scorer, pixels: Tensor, prompt: str, cache: Cache) -> list[tuple[float, tuple[str, ...]]]:
    keys = [(repr(scorer), prompt, hash_of(picture)) for picture in pixels]
    new = [k for k, key in enumerate(keys) if key not in cache]
    if new:
        found: Scores = scorer(pixels[new], prompt)
        cache.update(zip([keys[k] for k in new], zip(found.values.tolist(), found.answers, strict=True), strict=True))
    return [cache[key] for key in keys]


def best_of(chosen_by: Tensor, judged_by: Tensor, n: int) -> Tensor:
    """(P,) expected judgement of the best of n candidates drawn from N, without drawing.

    Args:
        chosen_by: (P, N) scores of the selecting scorer.
        judged_by: (P, N) scores of another judge.
        n: candidates, 1 to N.
    """
    total = chosen_by.shape[1]
    if not 1 <= n <= total:
        raise BadInput(f"n={n}: there are {total} candidates; give 1 to {total}")
    order = chosen_by.argsort(dim=1, descending=True, stable=True)
    # the candidate of rank r is the best of a subset when the others of it come from those behind
    chance = torch.tensor([comb(total - 1 - r, n - 1) / comb(total, n) for r in range(total)], dtype=torch.float64)
    return judged_by.double().gather(1, order) @ chance
