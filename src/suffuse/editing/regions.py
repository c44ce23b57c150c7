"""Operations on regions of a picture, as maps: where what is to be shown at a place is now."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.memory import Row
from ..core.registry import method
from .branches import place
from .feature_probe import centres, nearest


@dataclass(frozen=True, eq=False)
class Pointed:
    """What a user points at in B pictures.

    Attributes:
        own: (B, 1, H, W) masks of the pictures.
        taken: (B, 1, H, W) masks of the pictures that regions are taken from; most often the same.
        points: (B, P, 4) drags x0, y0, x1, y1, or None.
    """

    own: Tensor
    taken: Tensor
    points: Tensor | None = None

    @staticmethod
    def at(cond: Cond, operation: Operation, rows: Sequence[int], taken: Sequence[int]) -> Pointed:
        """Of these rows of a condition, with regions from the rows `taken`."""
        mask = (place(cond, "mask", operation) > 0.5).float()
        points = place(cond, "points", operation)[rows] if "points" in operation.places else None
        return Pointed(mask[rows], mask[taken], points)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        return self.own.shape[2], self.own.shape[3]


@dataclass(frozen=True, eq=False)
class Region:
    """What an operation does at N places of B pictures.

    Attributes:
        origin: (B, N, 2) where what is to be at each place is now; x and y in pixels.
        new: (B, N) 1 where the operation puts something.
        old: (B, N) 1 where it is now.
        inside: (B, N) 1 where the edit is made; beside it content is kept, or filled in.
        free: (B, N) 1 where the picture may change.
    """

    origin: Tensor
    new: Tensor
    old: Tensor
    inside: Tensor
    free: Tensor


@dataclass(frozen=True)
class Weights:
    """Of the terms of the energy; see `RegionEnergy`.

    Args:
        edit: w_e, what is put somewhere looks as it did.
        content: w_c, what may not change looks as it did.
        contrast: w_v, what is left empty looks unlike what was there.
        fill: w_f, what is left empty looks like what may not change.
    """

    edit: float = 4.0
    content: float = 6.0
    contrast: float = 0.0
    fill: float = 0.0


class Operation(ABC):
    """What is done to the region that a user points at: a small value."""

    places: ClassVar[tuple[str, ...]] = ("mask",)
    """What it needs of the places that a user points at."""

    of: int | None = None
    """Number of the picture that the region is taken from, of those that are edited together; None is its own."""

    weights: ClassVar[Weights] = Weights()
    """Of the energy, where a guidance gives no others."""

    averages: ClassVar[bool] = False
    """Whether regions are alike when their means are, wherever in them something is."""

    @abstractmethod
    def region(self, pointed: Pointed, places: Tensor) -> Region:
        """What is done at `places` (N, 2).

        Raises:
            BadInput: something would leave the picture.
        """

    def on(self, x: Tensor, pointed: Pointed) -> Region:
        """What is done on the grid of states x (B, C, h, w); its fields are (B, 1, h, w), `origin` is (B, h w, 2)."""
        found = self.region(pointed, centres(x.shape[2], x.shape[3], pointed.size))
        maps = (v.view(-1, 1, *x.shape[2:]).to(x) for v in (found.new, found.old, found.inside, found.free))
        return Region(found.origin, *maps)

    def taken(self, rows: Sequence[Row], sources: Sequence[int]) -> list[int]:
        """For each source among `rows`, the row of the picture that its region is taken from."""
        if self.of is None:
            return list(sources)
        where = {row: i for i, row in enumerate(rows)}
        if any((rows[i][0], self.of) not in where for i in sources):
            raise BadInput(f"{self}: of={self.of} is none of the pictures that are edited; count them from 0")
        return [where[rows[i][0], self.of] for i in sources]


@method(paper="dragondiffusion")
@dataclass(frozen=True)
class Move(Operation):
    """m_new = c + d + s (m_old - c): the region, moved by d = (dx, dy) and scaled by s about its centre c.

    Args:
        dx, dy: to the right and down, in pixels.
        scale: of its size; 1 keeps it.

    Raises:
        BadInput: a scale that is not positive, or a region that would leave the picture.

    Example:
        >>> Move(16, 0), Move(scale=1.4)
    """

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0

    weights = Weights(contrast=0.2, fill=0.8)

    def __post_init__(self) -> None:
        if not self.scale > 0.0:
            raise BadInput(f"{self}: scale is above 0; 1 keeps the size")

    def region(self, pointed: Pointed, places: Tensor) -> Region:
        origin = _origin(self, pointed, places)
        new, old = (nearest(pointed.taken, q, pointed.size, "zeros")[..., 0] for q in (origin, _all(pointed, places)))
        return Region(origin, new, old, new, torch.maximum(new, old))


@method(paper="dragondiffusion")
@dataclass(frozen=True)
class Paste(Move):
    """The region of another picture, moved and scaled, put into each picture.

    Args:
        dx, dy, scale: as of `Move`.
        of: number of the picture whose mask is the region; None copies a region within its own picture.

    Example:
        >>> editor = Paste(16, 0, of=1)  # with two pictures and their masks
    """

    of: int | None = None

    weights = Weights()

    def region(self, pointed: Pointed, places: Tensor) -> Region:
        found = super().region(pointed, places)
        return replace(found, free=found.new)


@method(paper="dragondiffusion")
@dataclass(frozen=True)
class Appearance(Operation):
    """The region keeps its shape and looks like the region of another picture, on average.

    Args:
        of: number of the picture whose mask is the region to look like.
    """

    of: int | None = 1

    weights, averages = Weights(3.5, 5.0), True

    def region(self, pointed: Pointed, places: Tensor) -> Region:
        q = _all(pointed, places)
        new, old = (nearest(mask, q, pointed.size)[..., 0] for mask in (pointed.own, pointed.taken))
        return Region(q, new, old, new, new)


@method(paper="dragondiffusion")
@dataclass(frozen=True)
class Drag(Operation):
    """What is around each handle goes to its target; the picture may change within the mask.

    Args:
        radius: half the side of the square around a point, in pixels; the paper's 3 x 3 cells of 4 pixels are 6.
    """

    radius: float = 6.0

    places, weights = ("mask", "points"), Weights(contrast=0.2)

    def region(self, pointed: Pointed, places: Tensor) -> Region:
        assert pointed.points is not None
        q, handles, targets = _all(pointed, places), pointed.points[..., :2], pointed.points[..., 2:]
        far, old = (self._distance(q, points) for points in (targets, handles))
        nearby = far.argmin(-1, keepdim=True)
        shift = torch.take_along_dim(targets - handles, nearby, 1)
        new, old = ((d.amin(-1) <= self.radius).to(q) for d in (far, old))
        free = nearest(pointed.own, q, pointed.size)[..., 0]
        return Region(q - shift * new[..., None], new, old, free, free)

    @staticmethod
    def _distance(q: Tensor, points: Tensor) -> Tensor:
        """(B, N, P): of each place to each point, along the axis in which it is greater."""
        return (q[:, :, None] - points[:, None]).abs().amax(-1)


def _all(pointed: Pointed, places: Tensor) -> Tensor:
    return places.to(pointed.own).expand(len(pointed.own), -1, -1)


def _origin(op: Move, pointed: Pointed, places: Tensor) -> Tensor:
    """Where what `op` puts at each place is now."""
    height, width = pointed.size
    d, found = torch.tensor([op.dx, op.dy]), []
    for k, mask in enumerate(pointed.taken):
        y, x = mask[0].nonzero(as_tuple=True)
        if not len(x):
            raise BadInput(f"mask: that of picture {k} is empty; mark the region for {op}")
        corners = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float().cpu().view(2, 2)
        centre = corners.mean(0)
        low, high = (centre + d + op.scale * (corners - centre)).tolist()
        if min(low) < 0 or high[0] > width or high[1] > height:
            raise BadInput(
                f"{op}: the region of picture {k} would reach from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, "
                f"{high[1]:g}) of a picture of {width} x {height}; move or scale it less"
            )
        found.append(centre)
    centre = torch.stack(found)[:, None].to(pointed.own)
    return centre + (_all(pointed, places) - centre - d.to(centre)) / op.scale
