"""Restoring pictures with a denoiser that is conditioned on the degraded one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..codecs.pixel import Pixels
from ..core.codec import Codec
from ..core.denoiser import Denoiser
from ..core.engine import sample
from ..core.errors import BadInput
from ..core.noise import Keyed, Noise
from ..core.registry import method
from ..core.sampler import Sampler
from ..resolution.tiles import Box, Cut, by_tiles
from ..samplers.ancestral import DDPM
from .degradation import condition, enlarge


@method(paper="resshift")
@dataclass(frozen=True, eq=False)
class Restorer:
    """Degraded pictures in, restored ones out: super-resolution, inpainting, faces; large pictures tile by tile.

    The start is the process's prior, which for `ResShift` is y + kappa sqrt(eta_T) eps. Any other conditional denoiser
    will do: a DDPM that reads "source" starts from noise.

    Args:
        denoiser: reads "source", and "mask" for inpainting.
        codec: between pictures and states.
        scale: enlargement, a whole number; 1 where the input already has its size.
        sampler: default the process's own posterior.
        steps: for processes without times of their own.
        tile, overlap: side of the tiles and their overlap, in output pixels and multiples of what the codec shrinks by;
            None is the whole picture at once.

    Example:
        >>> restored = Restorer(denoiser, scale=4)(low_resolution)
        >>> restored = Restorer(denoiser)(pictures_with_holes, mask=known)
        >>> restored = Restorer(denoiser, scale=4, tile=256, overlap=64)(low_resolution)
    """

    denoiser: Denoiser
    codec: Codec = field(default_factory=Pixels)
    scale: int = 1
    sampler: Sampler = DDPM()
    steps: int = 25
    tile: int | None = None
    overlap: int = 16

    def __post_init__(self) -> None:
        factor = self.codec.space.factor
        if self.tile is not None and (self.tile % factor or self.overlap % factor):
            raise BadInput(f"tile={self.tile}, overlap={self.overlap}: this codec shrinks by {factor}; give multiples")
        if self.scale < 1:
            raise BadInput(f"scale={self.scale}: give a whole number, 1 or more")

    @torch.no_grad()
    def __call__(
        self,
        pictures: Tensor,
        *,
        mask: Tensor | None = None,
        noise: Noise | int = 0,
        samples: Sequence[int] | None = None,
    ) -> Tensor:
        """Restore pictures (B, C, h, w) in [-1, 1]; returns (B, C, scale h, scale w) in [-1, 1].

        Args:
            pictures: degraded.
            mask: (B, 1, scale h, scale w), 1 where known; the known part is returned unchanged.
            noise: Noise or seed.
            samples: identity of each row for the noise; default 0, 1, 2, ...

        Raises:
            BadInput: pictures or mask of another shape.
        """
        if pictures.ndim != 4:
            shape = tuple(pictures.shape)
            raise BadInput(f"pictures of shape {shape}: give a batch (B, C, H, W) with values in [-1, 1]")
        y = enlarge(pictures, self.scale) if self.scale > 1 else pictures
        if mask is not None and mask.shape != (len(y), 1, *y.shape[2:]):
            raise BadInput(f"mask of shape {tuple(mask.shape)}: give ({len(y)}, 1, {y.shape[2]}, {y.shape[3]})")
        noise = Keyed(noise) if isinstance(noise, int) else noise
        samples = range(len(y)) if samples is None else samples

        def run(box: Box) -> Tensor:
            return self._run(box.of(y), None if mask is None else box.of(mask), self._cut(noise, y, box), samples)

        height, width = y.shape[2:]
        x = run(Box(0, 0, height, width)) if self.tile is None else by_tiles(run, y, self.tile, self.overlap)
        return (x if mask is None else mask * y + (1 - mask) * x).clamp(-1, 1)

    def _run(self, y: Tensor, mask: Tensor | None, noise: Noise, samples: Sequence[int]) -> Tensor:
        cond = condition(y, mask, self.codec)
        start = tuple(cond["source"].shape)
        run = sample(
            self.denoiser, start, sampler=self.sampler, steps=self.steps, cond=cond, noise=noise, samples=samples
        )
        return self.codec.decode(run.x)

    def _cut(self, noise: Noise, y: Tensor, box: Box) -> Noise:
        """The noise of a tile: where tiles overlap they share it."""
        f = self.codec.space.factor
        inside = Box(box.top // f, box.left // f, box.height // f, box.width // f)
        return Cut(noise, (y.shape[2] // f, y.shape[3] // f), inside)
