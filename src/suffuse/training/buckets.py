"""Training at several sizes: every batch has one size, and sizes far from the native one come more often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadInput
from ..core.model import Model
from ..core.noise import Noise
from ..core.training import Batch, Roles, Source
from .sources import Shuffled, seekable

Size = tuple[int, int]
"""Height and width of pictures, in pixels."""


@dataclass(frozen=True, eq=False)
class Buckets:
    """Batches of one size each, drawn with p(s) ~ |s - s0|^2 for sizes s = (height, width) and the native size s0.

    The native size itself is not drawn. A bucket reads its source at the step of the run.

    Args:
        sources: size -> batches of that size.
        native: s0.

    Raises:
        BadInput: no size other than the native one.

    Example:
        >>> source = Buckets.of(model, pictures, captions, [(48, 48), (96, 96), (128, 128)], batch=16)
        >>> Trainer(roles, phase).fit(source, steps=1000)

    Reference: Cheng et al., ResAdapter, 2403.02084.
    """

    sources: Mapping[Size, Source]
    native: Size

    def __post_init__(self) -> None:
        if not any(self.shares.values()):
            raise BadInput(f"sources: {list(self.sources)} has no size but the native one; give another")

    @property
    def shares(self) -> Mapping[Size, float]:
        """p(s) for each size."""
        far = {s: float((s[0] - self.native[0]) ** 2 + (s[1] - self.native[1]) ** 2) for s in self.sources}
        return {s: d / max(sum(far.values()), 1e-12) for s, d in far.items()}

    def __call__(self, roles: Roles, noise: Noise, step: int) -> Batch:
        u = noise.uniform(torch.empty(1, 1, dtype=torch.float64), [0], "bucket")
        assert isinstance(u, Tensor)
        edges = torch.tensor(list(self.shares.values()), dtype=torch.float64).cumsum(0)
        k = int(torch.searchsorted(edges, u[0] * edges[-1], right=True))
        return seekable(list(self.sources.values())[k])(roles, noise, step)

    @classmethod
    def of(
        cls, model: Model, pictures: Tensor, captions: Sequence[Any], sizes: Sequence[Size], batch: int, seed: int = 0
    ) -> Buckets:
        """The same pictures at every size, encoded, with conditions that say the size where the model is told it.

        Args:
            model: whose codec and conditioner are used.
            pictures: (N, 3, H, W) in [-1, 1]; scaled to cover each size and cut around the middle.
            captions: N prompts.
            sizes: of the buckets.
            batch: rows of a batch.
            seed: of the order.
        """
        sources = {
            s: Shuffled(model.encode(covering(pictures, s)), model.condition(list(captions), size=s), batch, seed)
            for s in sizes
        }
        return cls(sources, (model.defaults.size[0], model.defaults.size[1]))


def covering(pictures: Tensor, size: Size) -> Tensor:
    """Pictures (N, C, H, W) scaled to cover a size, and cut to it around their middle."""
    factor = max(size[0] / pictures.shape[2], size[1] / pictures.shape[3])
    height, width = (max(side, round(factor * old)) for side, old in zip(size, pictures.shape[2:], strict=True))
    scaled = F.interpolate(pictures, (height, width), mode="bicubic", antialias=True) if factor != 1.0 else pictures
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return scaled[:, :, top : top + size[0], left : left + size[1]].clamp(-1, 1)
