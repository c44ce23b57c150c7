"""Rotations of a layer's outputs: DiagOFT and BOFT."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.registry import method
from ..core.site import Site
from .delta import Delta, Part, positive


@method(paper="lycoris", tags=("oft",))
@dataclass(frozen=True)
class DiagOFT(Delta):
    """Rotates blocks of output channels: W' = diag(R_1, ..., R_n) W with R = (I + Q)(I - Q)^-1, Q skew.

    Args:
        block: channels in a block; the largest divisor of the width that is at most so large is taken.
        constraint: bound of |Q| in units of the width; 0 is none.
        where, dropout: see Delta.

    Reference: Qiu et al., Controlling Text-to-Image Diffusion by Orthogonal Finetuning, 2306.07280.
    """

    block: int = 4
    constraint: float = 0.0

    def make(self, site: Site) -> Part:
        out = len(self.layer(site))
        size = max(m for m in range(1, positive("block", self.block) + 1) if out % m == 0)
        return Part({"oft_blocks": torch.zeros(out // size, size, size)}, self.constraint)

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        r = cayley(part["oft_blocks"], float(part.alpha) * len(weight))  # type: ignore[arg-type]
        n, size, _ = r.shape
        turned = torch.einsum("knm,kn...->km...", r - torch.eye(size, device=r.device), weight.to(r).view(n, size, -1))
        return turned.reshape(weight.shape)


@method(paper="lycoris", tags=("oft",))
@dataclass(frozen=True)
class BOFT(Delta):
    """Rotates output channels by m block-diagonal factors, with channels shuffled between them as in a butterfly.

    W' = R_m ... R_1 W; with enough factors every output may depend on every other. As in LyCORIS.

    Args:
        block: channels in a block; the largest even number up to it that splits the width into a power of two of
            blocks is taken, else the smallest above it. Layers of an odd width are left out.
        constraint: bound of |Q| in units of the width; 0 is none.
        where, dropout: see Delta.

    Reference: Liu et al., Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization, 2311.06243.
    """

    block: int = 4
    constraint: float = 0.0

    def make(self, site: Site) -> Part | None:
        out = len(self.layer(site))
        sizes = [b for b in range(2, out + 1, 2) if out % b == 0 and (out // b).bit_count() == 1]
        if not sizes:
            return None
        size = max((b for b in sizes if b <= positive("block", self.block)), default=sizes[0])
        blocks = out // size
        return Part({"oft_blocks": torch.zeros(blocks.bit_length(), blocks, size, size)}, self.constraint)

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        r = cayley(part["oft_blocks"], float(part.alpha) * len(weight))  # type: ignore[arg-type]
        factors, blocks, size, _ = r.shape
        rows = torch.arange(len(weight), device=weight.device)
        turned = weight.to(r).flatten(1)
        for k in range(factors):
            order = rows.view(-1, 2, 2**k * (size // 2)).transpose(1, 2).flatten()
            moved = torch.einsum("bij,bjc->bic", r[k], turned[order].view(blocks, size, -1)).flatten(0, 1)
            turned = moved[order.argsort()]
        return turned.reshape(weight.shape) - weight.to(r)


def cayley(blocks: Tensor, bound: float) -> Tensor:
    """Rotations (I + Q)(I - Q)^-1 of the skew parts Q of some blocks, |Q| at most `bound` where that is positive."""
    q = blocks - blocks.transpose(-1, -2)
    if bound > 0.0:
        q = q * (bound / (torch.linalg.vector_norm(q) + 1e-8)).clamp(max=1.0)
    eye = torch.eye(q.shape[-1], device=q.device, dtype=q.dtype)
    return (eye + q) @ torch.linalg.inv(eye - q)
