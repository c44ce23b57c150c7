"""Restoring pictures with a denoiser that is conditioned on the degraded one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.engine import sample
from ..core.errors import BadInput
from ..core.noise import Noise
from ..core.registry import method
from ..core.step import Sampler
from ..samplers.ancestral import DDPM
from .degradation import enlarge


@method(paper="resshift")
@dataclass(frozen=True, eq=False)
class Restorer:
    """Degraded pictures in, restored ones out: super-resolution, inpainting, faces; large pictures tile by tile.

    The start is the process's prior, which for ResShift is y + kappa sqrt(eta_T) eps.

    Args:
        denoiser: reads "source" (and "mask" (B, 1, H, W), 1 where known, for inpainting).
        scale: enlargement; 1 where the input already has its size.
        sampler: default the process's own posterior.
        steps: for processes without times of their own.
        tile, overlap: side of the tiles and their overlap, in output pixels; None is the whole picture at once.
    """

    denoiser: Denoiser
    scale: int = 1
    sampler: Sampler = DDPM()
    steps: int = 25
    tile: int | None = None
    overlap: int = 16

    def __call__(self, pictures: Tensor, *, mask: Tensor | None = None, noise: Noise | int = 0) -> Tensor:
        """Restore pictures (B, C, h, w) in [-1, 1]; returns (B, C, scale h, scale w).

        Args:
            pictures: degraded.
            mask: (B, 1, H, W), 1 where known; the known part is returned unchanged.
            noise: Noise or seed.
        """
        if pictures.ndim != 4:
            raise BadInput(f"pictures of shape {tuple(pictures.shape)}: give a batch (B, C, H, W) with values in [-1, 1]")
        y = enlarge(pictures, self.scale) if self.scale > 1 else pictures
        x = self._run(y, mask, noise) if self.tile is None else self._tiled(y, mask, noise)
        return x if mask is None else mask * y + (1 - mask) * x

    def _run(self, y: Tensor, mask: Tensor | None, noise: Noise | int) -> Tensor:
        cond = Cond({"source": y} if mask is None else {"source": y, "mask": mask})
        return sample(self.denoiser, tuple(y.shape), sampler=self.sampler, steps=self.steps, cond=cond, noise=noise).x

    def _tiled(self, y: Tensor, mask: Tensor | None, noise: Noise | int) -> Tensor:
        """Overlapping tiles, blended with a Gaussian window."""
        side, step = self.tile or 0, (self.tile or 0) - self.overlap
        if step <= 0:
            raise BadInput(f"tile={self.tile}, overlap={self.overlap}: a tile must be larger than the overlap")
        height, width = y.shape[-2:]
        tops = sorted({min(t, max(height - side, 0)) for t in range(0, height, step)})
        lefts = sorted({min(t, max(width - side, 0)) for t in range(0, width, step)})
        grid = torch.linspace(-1, 1, min(side, height)), torch.linspace(-1, 1, min(side, width))
        window = torch.exp(-2 * (grid[0][:, None] ** 2 + grid[1][None] ** 2)).to(y)
        total, weight = torch.zeros_like(y), torch.zeros_like(y[:, :1])
        for top in tops:
            for left in lefts:
                box = (..., slice(top, top + side), slice(left, left + side))
                part = self._run(y[box], None if mask is None else mask[box], noise)
                total[box] += window * part
                weight[box] += window
        return total / weight
