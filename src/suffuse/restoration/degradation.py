"""Seeded degradations on tensors, which record what they drew, and training batches made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs.pixel import Pixels
from ..core.codec import Codec
from ..core.cond import Cond
from ..core.noise import Noise
from ..core.training import Batch, Roles


@dataclass(frozen=True, eq=False)
class Degraded:
    """A degraded batch y (B, C, H, W), of the size of the clean one, and what was drawn for each row: truth for
    estimators. A "mask" (B, 1, H, W) among it, 1 where y is known, is what inpainting networks are told."""

    y: Tensor
    drawn: Mapping[str, Tensor] = field(default_factory=dict)


class Degradation(ABC):
    """A random map from clean to degraded pictures. A frozen dataclass."""

    @abstractmethod
    def draw(self, x: Tensor, noise: Noise, samples: Sequence[int]) -> Degraded:
        """Degrade pictures (B, C, H, W) in [-1, 1]; a picture's draw depends on its sample alone."""


@dataclass(frozen=True)
class Bicubic(Degradation):
    """Antialiased bicubic reduction by a whole factor, with optional noise, enlarged again by bicubic interpolation.

    Args:
        factor: of the reduction; both sides of a picture are multiples of it.
        noise: range of the standard deviation of Gaussian noise on the reduced picture, drawn uniformly.
    """

    factor: int = 4
    noise: tuple[float, float] = (0.0, 0.0)

    def draw(self, x: Tensor, noise: Noise, samples: Sequence[int]) -> Degraded:
        y = F.interpolate(x, scale_factor=1 / self.factor, mode="bicubic", antialias=True)
        low, high = self.noise
        level = low + (high - low) * noise.uniform(torch.empty(len(x), 1), samples, "degrade/level")[:, 0]
        if high > 0:
            y = y + level.to(y)[:, None, None, None] * noise.normal(y, samples, "degrade/noise")
        return Degraded(enlarge(y, self.factor), {"noise": level})


@dataclass(frozen=True)
class Holes(Degradation):
    """A rectangular hole at a random place, filled with 0.

    Args:
        share: side of the hole as a share of the picture's, 0 to 1.
    """

    share: float = 0.4

    def draw(self, x: Tensor, noise: Noise, samples: Sequence[int]) -> Degraded:
        n, _, height, width = x.shape
        corner = noise.uniform(torch.empty(n, 2), samples, "degrade/hole") * (1 - self.share)
        rows, columns = torch.arange(height) / height, torch.arange(width) / width
        inside_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + self.share)
        inside_columns = (columns >= corner[:, 1:]) & (columns < corner[:, 1:] + self.share)
        mask = (1.0 - (inside_rows[:, :, None] & inside_columns[:, None, :]).float()[:, None]).to(x)
        return Degraded(x * mask, {"mask": mask})


def enlarge(y: Tensor, factor: int) -> Tensor:
    """Bicubic interpolation by a whole factor, values kept in [-1, 1]."""
    return F.interpolate(y, scale_factor=float(factor), mode="bicubic").clamp(-1, 1)


def condition(y: Tensor, mask: Tensor | None, codec: Codec) -> Cond:
    """What a restorer's network is told: "source", y in the state's space, and "mask" in its size."""
    source, _ = codec.encode(y)
    if mask is None:
        return Cond({"source": source})
    return Cond({"source": source, "mask": F.interpolate(mask, source.shape[-2:], mode="area")})


@dataclass(frozen=True, eq=False)
class Pairs:
    """A source of training batches: clean states, and in the condition what a degradation made of the pictures.

    Args:
        clean: (step) -> Batch of clean pictures (B, C, H, W) in [-1, 1], such as `Shuffled`.
        degradation: drawn anew in every step.
        codec: between pictures and states; not trained.

    Example:
        >>> import torch
        >>> from suffuse.core.cond import Cond
        >>> from suffuse.restoration import Bicubic, Pairs
        >>> from suffuse.training import Shuffled
        >>> pictures = torch.rand(16, 3, 64, 64) * 2 - 1
        >>> source = Pairs(Shuffled(pictures, Cond(), batch=8), Bicubic(4))  # for Trainer.fit
    """

    clean: Callable[[int], Batch]
    degradation: Degradation
    codec: Codec = field(default_factory=Pixels)

    def __call__(self, roles: Roles, noise: Noise, step: int) -> Batch:
        batch = self.clean(step)
        with torch.no_grad():
            made = self.degradation.draw(batch.data, noise, batch.ids.tolist())
            state, _ = self.codec.encode(batch.data)
            return Batch(state, batch.cond | condition(made.y, made.drawn.get("mask"), self.codec), batch.ids)
