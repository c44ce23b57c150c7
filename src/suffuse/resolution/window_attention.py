"""Attention inside of shifted windows, at the outermost level, where a large picture has too many tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.registry import method
from ..core.site import Site, Sites
from .size_context import SizeContext

SHIFTS = 4
"""Quarters of a window by which windows may be shifted."""


@method(paper="hidiffusion")
@dataclass(frozen=True)
class MSWMSA(Patch):
    """Modified shifted-window self-attention: at the outermost level that attends, in 2 x 2 windows of half the sides.

    The windows are shifted by 0, 1/4, 1/2 or 3/4 of a window along both axes, cyclically, drawn anew for each picture
    and step, the same for all branches of a guidance. An odd side is padded by one row, whose keys are masked out.
    Where a layer has no more than `above`^2 times its native number of tokens, it attends to all of them as ever.

    UNets: the level with the largest grid that attends. DiT and PixArt: every layer; their positions are added ahead of
    it and stay. Joint attention with text has no windows.

    Args:
        above: side, in units of the native one, above which windows are used.

    Raises:
        BadInput: not a positive side. Refused: a network without self-attention of images alone.

    Example:
        >>> model.generate("a red circle", height=128, width=128, patches=[RAUNet(), MSWMSA()])

    Reference: Zhang et al., HiDiffusion, 2311.17528.

    Differs from the paper: the native size is left alone; odd grids are padded instead of resized.
    """

    above: float = 1.0

    def __post_init__(self) -> None:
        if not self.above > 0.0:
            raise BadInput(f"MSWMSA(above={self.above}): give a side above 0 in units of the native one; inf is never")

    def neutral(self) -> MSWMSA:
        """No windows."""
        return MSWMSA(math.inf)

    def sites(self, net: Sites) -> Sequence[Site]:
        found = [s for s in net.attention("self") if s.grid]
        if not found or net.attention("joint"):
            raise Refused(f"{self}: this network has no self-attention of images alone; use a UNet, DiT or PixArt")
        largest = max(math.prod(s.grid) for s in found)
        return [net.root, *(s for s in found if math.prod(s.grid) == largest)]

    def around(self, call: Call) -> Any:
        size = SizeContext.at(call)
        if call.site.kind == "root" or call.at is None:
            return call()
        image = call["image"]
        x = image.flatten(2).transpose(1, 2) if image.ndim == 4 else image
        if x.shape[1] <= self.above**2 * math.prod(call.site.grid):
            return call()
        out = self._windowed(call, x, size.grid(x.shape[1]))
        return out.transpose(1, 2).view(image.shape) if image.ndim == 4 else out

    def _windowed(self, call: Call, x: Tensor, grid: tuple[int, int]) -> Tensor:
        assert call.at is not None
        b, n, c = x.shape
        own = call.at.but(samples=tuple(sample for _, sample in call.rows))
        u = own.noise(torch.empty(b, 1, dtype=torch.float64), call.site.name, "uniform")
        order = windows(*grid)[(SHIFTS * u[:, 0]).long()].to(x.device)  # (B, 4 n'), n where there is padding
        place = order[..., None].expand(-1, -1, c)
        parts = F.pad(x, (0, 0, 0, 1)).gather(1, place).reshape(4 * b, -1, c)
        if order.shape[1] > n:
            hidden = (order == n).reshape(4 * b, 1, -1)
            mask = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device)
            out = call(image=parts, attention_mask=mask.masked_fill(hidden, torch.finfo(x.dtype).min))
        else:
            out = call(image=parts)
        return x.new_zeros(b, n + 1, c).scatter(1, place, out.reshape(b, -1, c))[:, :n]


@cache
def windows(height: int, width: int) -> Tensor:
    """(4, 4 n') token numbers in the order of 2 x 2 windows, for each shift; height * width stands for padding."""
    high, wide = math.ceil(height / 2), math.ceil(width / 2)
    tokens = torch.arange(height * width).view(height, width)
    padded = F.pad(tokens, (0, 2 * wide - width, 0, 2 * high - height), value=height * width)
    rows = []
    for k in range(SHIFTS):
        rolled = padded.roll((-(k * high // SHIFTS), -(k * wide // SHIFTS)), (0, 1))
        rows.append(rolled.view(2, high, 2, wide).transpose(1, 2).flatten())
    return torch.stack(rows)
