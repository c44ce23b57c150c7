"""What claims on the bundled models share: captions, pictures, and what the reader says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from suffuse.core.engine import sample
from suffuse.core.guidance import Guidance
from suffuse.core.hook import Hook
from suffuse.core.model import Model
from suffuse.core.sampler import Sampler
from suffuse.evaluation.features import ReaderFeatures, load_reader
from suffuse.evaluation.frechet import frechet
from suffuse.evaluation.moments import Moments
from suffuse.guidance.cfg import CFG
from suffuse.samplers.ancestral import DDIM
from suffuse.world import Caption, frozen
from suffuse.zoo.judge import Judgement, judge

GUIDANCE = 3.0
"""Scale at which the bundled models are run in claims."""


@lru_cache(maxsize=2)
def model(name: str = "shapes") -> Model:
    """A bundled model."""
    from suffuse import load

    return load(name)


def captions(
    n: int, *, objects: int | None = None, relation: bool | None = None, split: str = "validation"
) -> list[Caption]:
    """The first n captions of a frozen split with so many objects, with or without a relation."""
    found = [c for c in frozen(split)[1] if objects in (None, c.count) and relation in (None, c.relation is not None)]
    return found[:n]


@dataclass(frozen=True, eq=False)
class Pictures:
    """A run and its decoded pictures."""

    latents: Tensor
    nfe: Tensor
    pixels: Tensor
    captions: Sequence[Caption]

    @property
    def judgement(self) -> Judgement:
        """The reader's verdicts on the captions."""
        reader, _ = load_reader(None)
        with torch.no_grad():
            return judge(reader.read(self.pixels), self.captions)

    @property
    def wrong(self) -> Tensor:
        """(n,) 1.0 where an object of the caption is not there in shape and colour."""
        return (~self.judgement.objects.right).double()

    @property
    def error(self) -> Tensor:
        """(n,) one minus the reader's score of the objects: how far it is from sure that they are there, 0 to 1."""
        return 1.0 - self.judgement.objects.score.double()

    def distance(self, other: Tensor) -> float:
        """Frechet distance on the reader's features to other pictures."""
        features = ReaderFeatures()
        return frechet(Moments.of(features(self.pixels)), Moments.of(features(other)))


def place(loaded: Model, texts: Sequence[Caption]) -> dict[str, Any]:
    """What `sample` and every `fit` need to make pictures of captions."""
    shape = loaded.codec.space.shape(loaded.defaults.size)
    return {
        "denoiser": loaded.denoiser,
        "x": (len(texts), *shape),
        "cond": loaded.condition([str(c) for c in texts]),
        "spacing": loaded.defaults.spacing,
        "setting": loaded.setting(shape),
    }


def run(
    loaded: Model,
    texts: Sequence[Caption],
    *,
    steps: int,
    sampler: Sampler = DDIM(),
    guidance: Guidance = CFG(GUIDANCE),
    patches: Sequence[Any] = (),
    hooks: Sequence[Hook] = (),
    seed: int = 0,
    batch: int = 64,
) -> Pictures:
    """Pictures of captions, picture i with the same noise whatever the method."""
    latents, nfe, pixels = [], [], []
    for rows in torch.arange(len(texts)).split(batch):
        part = sample(
            **place(loaded, [texts[i] for i in rows]),
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            patches=patches,
            hooks=hooks,
            noise=seed,
            samples=rows.tolist(),
        )
        assert isinstance(part.x, Tensor)
        latents.append(part.x)
        nfe.append(part.nfe)
        pixels.append(loaded.decode(part.x).clamp(-1, 1))
    return Pictures(torch.cat(latents), torch.cat(nfe), torch.cat(pixels), texts)
