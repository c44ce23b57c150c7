"""Tags of degraded pictures: a reader of clean pictures, tuned until it says the same of degraded ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadInput
from ..core.plugin import Plugin
from ..core.registry import method
from ..core.training import Batch, Loss, Objective, Phase, Roles
from ..training.optimisers import AdamW, WarmupDecay
from ..training.trainer import Trainer
from ..world.captions import Caption, Phrase
from ..world.scene import COLOURS, SHAPES
from ..zoo.reader import PARTS, Reader, ReaderConfig


class TagReader(nn.Module):
    """Probabilities of tags such as "red circle", and soft embeddings, read by the trunk and the heads of a reader.

    p_k is the highest probability, over the cells of a picture, that an object of this colour and shape has its centre
    there. The soft embeddings are the trunk's means and maxima over grid x grid parts, 2 width numbers each.

    Args:
        reader: the arguments of a `ReaderConfig`.
        grid: embeddings of a side.

    Example:
        >>> scores, soft = TagReader.of(Reader.load())(pictures)
    """

    names = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

    def __init__(self, reader: Mapping[str, Any], grid: int = 4):
        super().__init__()
        self.reader, self.grid = Reader(ReaderConfig(**reader)), grid

    @classmethod
    def of(cls, reader: Reader, grid: int = 4) -> TagReader:
        """With a copy of a reader's weights."""
        made = cls(asdict(reader.config), grid)
        made.reader.load_state_dict(reader.state_dict())
        return made.eval()

    @property
    def config(self) -> Mapping[str, Any]:
        """The arguments that build it again."""
        return {"reader": asdict(self.reader.config), "grid": self.grid}

    def train(self, mode: bool = True) -> TagReader:
        """As ever, but batch norms keep their statistics: too few batches are seen to learn others."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = False
        return self

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(B, tags) probabilities and (B, grid^2, 2 width) embeddings of pictures (B, 3, H, W) in [-1, 1]."""
        side = self.reader.config.resolution
        if pictures.shape[2:] != (side, side):
            pictures = F.interpolate(pictures, (side, side), mode="bilinear", antialias=True, align_corners=False)
        trunk = self.reader.trunk(pictures)
        maps = dict(zip(PARTS, self.reader.cells(trunk).split(list(PARTS.values()), 1), strict=True))
        colour, shape = maps["colour"].softmax(1)[:, :, None], maps["shape"].softmax(1)[:, None]
        chance = maps["heat"].sigmoid()[:, :, None] * colour * shape
        parts = [pool(trunk, self.grid) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)]
        return chance.flatten(3).amax(3).flatten(1), torch.cat(parts, 1).flatten(2).mT

    def prompt(self, tags: Sequence[str]) -> str | None:
        """What a picture of these tags is called; None where there are none."""
        phrases = tuple(Phrase(shape, colour) for colour, shape in map(str.split, tags))
        return str(Caption(phrases)) if phrases else None


@dataclass(frozen=True, eq=False)
class Tags:
    """What a tagger says of B pictures.

    Attributes:
        hard: names of the tags that are there, by falling probability.
        scores: (B, tags) probabilities.
        soft: (B, n, width) embeddings.
    """

    hard: Sequence[tuple[str, ...]]
    scores: Tensor
    soft: Tensor


@method(paper="zoomed-in", tags=("tagger",))
@dataclass(frozen=True)
class DegradationAwareTagger(Plugin):
    """Hard tags {k: p_k(y) >= threshold} and soft embeddings e(y) of degraded pictures, as they are of clean ones.

    min |e(y) - e*(x)|^2 / |e*(x)|^2 + BCE(p(y), p*(x)) over pairs of a clean picture x and what a degradation makes of
    it, with a frozen tagger p*, e* of clean pictures; no labels are needed.

    Args:
        network: what reads them; `fit` tunes it, `save_method` and `load_method` keep it in a file.
        threshold: least probability of a hard tag, above 0; more than 1 leaves none.
        most: hard tags of a picture, the most probable first.

    Raises:
        BadInput: a threshold out of range, or no tags.

    Example:
        >>> pairs = Pairs(Shuffled(pictures, Cond(), batch=32), RealWorld(4))
        >>> tagger = DegradationAwareTagger.fit(TagReader.of(Reader.load()), pairs, steps=400)
        >>> tagger(degraded).hard

    Reference: Moser et al., Zoomed In, Diffused Out: Towards Local Degradation-Aware Multi-Diffusion for Extreme Image
    Super-Resolution, 2411.12072; the training is that of Wu et al., SeeSR, 2311.16518.

    Differs from the paper: a reader of the small world takes the place of RAM, and all of it is tuned.
    """

    network: TagReader
    threshold: float = 0.4
    most: int = 4

    def __post_init__(self) -> None:
        if not self.threshold > 0.0 or self.most < 1:
            raise BadInput(
                f"DegradationAwareTagger(threshold={self.threshold}, most={self.most}): give a probability above 0 "
                "and at least one tag"
            )

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tags:
        """The tags of pictures (B, 3, H, W) in [-1, 1] of any size."""
        scores, soft = self.network.eval()(pictures)
        ranked = [row.topk(self.most) for row in scores]
        hard = [
            tuple(self.network.names[k] for k, p in zip(top.indices, top.values, strict=True) if p >= self.threshold)
            for top in ranked
        ]
        return Tags(hard, scores, soft)

    @classmethod
    def fit(
        cls, teacher: TagReader, source: Callable[..., Batch], *, steps: int = 400, rate: float = 2e-3, seed: int = 0
    ) -> DegradationAwareTagger:
        """Tune a copy of a tagger of clean pictures.

        Args:
            teacher: p*, e*; it is also where the copy begins, and stays as it is.
            source: batches of clean pictures with the degraded ones as "source", such as `Pairs`.
            steps: of AdamW, with a short warm-up and a decay.
            rate: learning rate.
            seed: of the degradations.
        """
        phase = Phase(Consistency(), optim=AdamW(lr=rate, schedule=WarmupDecay(max(1, steps // 20), 0.7)))
        roles = {"model": copy.deepcopy(teacher), "teacher": teacher}
        for _ in Trainer(roles, phase, seed=seed).fit(source, steps):
            pass
        return cls(roles["model"].eval().requires_grad_(False))


@dataclass(frozen=True)
class Consistency(Objective):
    """What a tagger, the role "model", says of degraded pictures against what the "teacher" says of the clean ones."""

    def __call__(self, roles: Roles, batch: Batch, noise: Any, parts: nn.ModuleDict) -> Loss:
        scores, soft = roles.model(batch.cond["source"])
        with torch.no_grad():
            wanted, target = roles.teacher(batch.data)
        apart = ((soft - target) ** 2).flatten(1).sum(1) / (target**2).flatten(1).sum(1)
        tags = F.binary_cross_entropy(scores.clamp(1e-6, 1 - 1e-6), wanted, reduction="none").mean(1)
        return Loss(apart + tags, {"soft": apart, "tags": tags})
