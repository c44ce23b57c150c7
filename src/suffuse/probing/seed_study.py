"""What a seed means: how good its pictures are, whether one can tell it from them, and which seeds are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadInput
from ..core.registry import method


@dataclass(frozen=True)
class Shares:
    """What part of the variance of a score comes from the seed, from the prompt, and from neither alone."""

    seed: float
    prompt: float
    rest: float


@method(paper="good-seed")
@dataclass(frozen=True, eq=False)
class SeedStudy:
    """P prompts times S seeds: ranks, interpretable dimensions, variance shares, clusters, and a classifier of seeds.

    A seed fixes the start noise and every stochastic step. Prompts are split: seeds are ranked on some, and the
    ranking is verified on the others.

    Args:
        pixels: (P, S, 3, H, W) pictures in [-1, 1]; `SeedBank` makes them with identical noise per seed.
        scores: name -> (P, S) of whatever is measured of each picture, more is better.
        seeds: (S,) what they are.

    Example:
        >>> study = SeedStudy(pixels, {"alignment": scores}, seeds)
        >>> SeedBank(study.ranked("alignment")[:4])

    Reference: Xu et al., Good Seed Makes a Good Crop: Discovering Secret Seeds in Text-to-Image Diffusion Models.

    Differs from the paper: seeds are told apart by ridge regression on small pictures instead of a CNN.
    """

    pixels: Tensor
    scores: Mapping[str, Tensor]
    seeds: Sequence[int] = field(default=())

    def __post_init__(self) -> None:
        grid = tuple(self.pixels.shape[:2])
        wrong = [name for name, v in self.scores.items() if tuple(v.shape) != grid]
        if wrong or (self.seeds and len(self.seeds) != grid[1]):
            what = wrong[0] if wrong else "seeds"
            raise BadInput(f"SeedStudy({what}): does not fit {grid[0]} prompts times {grid[1]} seeds")

    def of_prompts(self, prompts: Sequence[int]) -> SeedStudy:
        """The part of some prompts."""
        rows = torch.as_tensor(list(prompts))
        return SeedStudy(self.pixels[rows], {k: v[rows] for k, v in self.scores.items()}, self.seeds)

    def ranked(self, name: str) -> tuple[int, ...]:
        """The seeds by the mean of a score, the best first."""
        seeds = self.seeds or range(self.pixels.shape[1])
        return tuple(seeds[k] for k in self.scores[name].double().mean(0).argsort(descending=True).tolist())

    def shares(self, name: str) -> Shares:
        """Two-way decomposition of a score's variance without interaction."""
        v = self.scores[name].double()
        total = v.var(unbiased=False).clamp(min=1e-30)
        seed, prompt = (v.mean(axis).var(unbiased=False) / total for axis in (0, 1))
        return Shares(float(seed), float(prompt), float(1.0 - seed - prompt))

    def dimensions(self) -> Mapping[str, Tensor]:
        """(P, S) each: grayness (1 without colour), border (contrast of the rim to the inside), brightness, and where
        the picture's contrast lies, x and y of its centre and its spread, in shares of the side."""
        rgb = self.pixels.double() / 2 + 0.5
        luma = rgb.mean(2)
        away = (rgb - rgb.flatten(3).median(3).values[..., None, None]).abs().mean(2)
        mass = away / away.sum((-2, -1), keepdim=True).clamp(min=1e-12)
        h, w = luma.shape[-2:]
        y, x = (torch.arange(n, dtype=torch.float64).add(0.5) / n for n in (h, w))
        cx, cy = (mass.sum(-2) * x).sum(-1), (mass.sum(-1) * y).sum(-1)
        squared = (x - cx[..., None, None]) ** 2 + (y[:, None] - cy[..., None, None]) ** 2
        spread = (mass * squared).sum((-2, -1)).sqrt()
        rim = torch.ones(h, w, dtype=torch.bool)
        rim[h // 8 : h - h // 8, w // 8 : w - w // 8] = False
        return {
            "grayness": 1.0 - (rgb.amax(2) - rgb.amin(2)).mean((-2, -1)),
            "border": (luma[..., rim].mean(-1) - luma[..., ~rim].mean(-1)).abs(),
            "brightness": luma.mean((-2, -1)),
            "x": cx, "y": cy, "size": spread,
        }  # fmt: skip

    def features(self, side: int = 16) -> Tensor:
        """(P, S, n) small pictures without what all seeds of a prompt share."""
        p, s = self.pixels.shape[:2]
        small = F.adaptive_avg_pool2d(self.pixels.flatten(0, 1), side).flatten(1).unflatten(0, (p, s)).double()
        return small - small.mean(1, keepdim=True)

    def recognised(self, train: Sequence[int], test: Sequence[int], ridge: float = 10.0) -> Tensor:
        """(len(test), S) True where the seed of a picture is told rightly by a classifier fitted on other prompts."""
        features = self.features()
        seeds = features.shape[1]
        x, goal = features[list(train)].flatten(0, 1), torch.eye(seeds, dtype=torch.float64).repeat(len(train), 1)
        gram = x @ x.T  # fewer pictures than pixels: solved among the pictures
        dual = torch.linalg.solve(gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype), goal)
        told = (features[list(test)] @ x.T @ dual).argmax(-1)
        return told == torch.arange(seeds)

    def clusters(self, k: int) -> Tensor:
        """(S,) cluster of each seed by the mean of its features: pictures of one cluster are laid out alike."""
        from scipy.cluster.vq import kmeans2

        means = self.features().mean(0).numpy()
        _, labels = kmeans2(means, k, minit="++", seed=np.random.default_rng(0))
        return torch.from_numpy(labels).long()

    def diverse(self, name: str, k: int) -> tuple[int, ...]:
        """The best seed of each of k clusters, for pictures that differ from each other."""
        order, labels = list(self.ranked(name)), self.clusters(k).tolist()
        place = {seed: i for i, seed in enumerate(self.seeds or range(self.pixels.shape[1]))}
        best: dict[int, int] = {}
        for seed in order:
            best.setdefault(labels[place[seed]], seed)
        return tuple(best.values())
