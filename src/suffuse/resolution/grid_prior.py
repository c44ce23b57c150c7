"""Grids of embeddings drawn as wholes, so that distant parts of a large picture agree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser, Network
from ..core.engine import sample
from ..core.errors import BadInput
from ..core.prediction import FLOW
from ..core.training import Batch
from ..guidance.cfg import CFG
from ..networks.uvit import UViT, UViTFamily
from ..processes.continuous import Flow
from ..samplers.ancestral import Euler


@dataclass(frozen=True, eq=False)
class GridPrior:
    """A small diffusion model of whole grids of embeddings, one token a part, given a class.

    Its states are grids (d, rows, columns) with entries of variance 1; train its `denoiser` with `Denoising` on what
    `batch` makes of grids.

    Args:
        denoiser: of a network that reads "label", the last of which is none.
        shape: (d, rows, columns).
        classes: number of classes, without none.

    Example:
        >>> prior = GridPrior.untrained((32, 4, 4), classes=5)
        >>> run = Trainer({"model": prior.denoiser}, Phase(Denoising(dropout=0.1)))
        >>> for log in run.fit(lambda step: prior.batch(grids, labels, torch.arange(len(grids))), 1000): ...
        >>> model.generate([EmbeddingGrid(g) for g in prior.draw(torch.tensor([2, 4]))], height=256, width=256)

    Reference: Graikos et al., Learned representation-guided diffusion models for large-image generation, 2312.07330.

    Differs from the paper: given a class, not a text; a flow in place of their DDPM.
    """

    denoiser: Denoiser
    shape: tuple[int, int, int]
    classes: int

    @staticmethod
    def untrained(shape: tuple[int, int, int], classes: int, width: int = 128, depth: int = 5) -> GridPrior:
        """A U-ViT of so many layers of this width."""
        net = UViT(shape, patch=1, width=width, depth=depth, classes=classes + 1)
        return GridPrior(Network(net, UViTFamily(), Flow(), FLOW), shape, classes)

    def batch(self, grids: Tensor, labels: Tensor, ids: Tensor) -> Batch:
        """Training data of grids (B, rows, columns, d) and their classes (B,)."""
        states = F.normalize(grids, dim=-1).permute(0, 3, 1, 2) * self.shape[0] ** 0.5
        if tuple(states.shape[1:]) != self.shape:
            d, rows, columns = self.shape
            raise BadInput(f"grids: shape {tuple(grids.shape)}; this prior is of (B, {rows}, {columns}, {d})")
        return Batch(states, self.condition(labels), ids)

    def condition(self, labels: Tensor) -> Cond:
        """Of classes (B,), with the alternative "null"."""
        return Cond({"label": labels}, {"null": Cond({"label": torch.full_like(labels, self.classes)})})

    @torch.no_grad()
    def draw(self, labels: Tensor, *, guidance: float = 1.0, steps: int = 25, seed: int = 0) -> Tensor:
        """(B, rows, columns, d): grids of classes (B,), each embedding of length 1.

        Args:
            labels: classes.
            guidance: scale of classifier-free guidance.
            steps: of Euler's method.
            seed: of the noise.
        """
        run = sample(
            self.denoiser, (len(labels), *self.shape), sampler=Euler(), steps=steps, cond=self.condition(labels),
            guidance=CFG(guidance), noise=seed,
        )  # fmt: skip
        assert isinstance(run.x, Tensor)
        return F.normalize(run.x.permute(0, 2, 3, 1), dim=-1)
