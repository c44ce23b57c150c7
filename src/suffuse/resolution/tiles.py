"""Parts of pictures: where they lie, what each weighs where they overlap, and the noise that falls into them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.noise import Noise
from ..core.registry import method


@dataclass(frozen=True)
class Box:
    """A part of a picture.

    Args:
        top, left: its first row and column; over an edge it goes on at the opposite one.
        height, width: rows and columns that it has.
        every: it has one of so many rows and columns (dilation).
    """

    top: int
    left: int
    height: int
    width: int
    every: int = 1

    def of(self, picture: Tensor, finer: int = 1) -> Tensor:
        """The part of (B, C, H, W) in it; `finer` where the picture has so many pixels to one of the box."""
        rows, columns = self._places(picture, finer)
        return picture[..., rows, columns]

    def add(self, picture: Tensor, value: Tensor) -> None:
        """Add to that part, in place."""
        rows, columns = self._places(picture, 1)
        picture[..., rows, columns] += value

    def _places(self, picture: Tensor, k: int) -> tuple[Tensor, Tensor]:
        def places(first: int, n: int, length: int) -> Tensor:
            j = torch.arange(n * k)
            return ((first + self.every * (j // k)) * k + self.every * (j % k)) % length

        rows = places(self.top, self.height, picture.shape[-2])
        return rows[:, None], places(self.left, self.width, picture.shape[-1])


class Weight(ABC):
    """What the entries of a tile weigh where tiles overlap, as a product of a function of the row and the column."""

    @abstractmethod
    def profile(self, n: int) -> Tensor:
        """(n,) weights along one side, above 0."""

    def __call__(self, height: int, width: int) -> Tensor:
        """(height, width)."""
        return torch.outer(self.profile(height), self.profile(width))


@method(tags=("tile weight",))
@dataclass(frozen=True)
class Flat(Weight):
    """The same weight everywhere: overlapping tiles are averaged, and their borders show."""

    def profile(self, n: int) -> Tensor:
        return torch.ones(n)


@method(tags=("tile weight",))
@dataclass(frozen=True)
class Bell(Weight):
    """exp(-u^2 / (2 sigma^2)) at u = -1 .. 1 from edge to edge: the middle of a tile counts most.

    Args:
        sigma: standard deviation in halves of the tile's side.
    """

    sigma: float = 0.5

    def profile(self, n: int) -> Tensor:
        return torch.exp(-0.5 * (torch.linspace(-1, 1, n) / self.sigma) ** 2)


@method(tags=("tile weight",))
@dataclass(frozen=True)
class Cosine(Weight):
    """sin^2(pi (k + 1/2) / n): at half overlap the weights of neighbours sum to 1."""

    def profile(self, n: int) -> Tensor:
        return torch.sin(torch.pi * (torch.arange(n) + 0.5) / n) ** 2


@dataclass(frozen=True)
class Cut(Noise):
    """The part of a whole picture's noise that falls into a tile.

    Args:
        inner: of the whole picture.
        size: (H, W) of the whole picture's state.
        box: the tile, in entries of the state.
    """

    inner: Noise
    size: tuple[int, int]
    box: Box

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        whole = like.new_empty(()).expand(*like.shape[:-2], *self.size)
        return self.box.of(self.inner.draw(kind, whole, samples, key))


def by_tiles(run: Callable[[Box], Tensor], like: Tensor, side: int, overlap: int) -> Tensor:
    """A picture of the shape of `like` (B, C, H, W) made of overlapping square tiles, blended by a Gaussian window.

    Args:
        run: makes the tile of a box, (B, C, box.height, box.width).
        like: for shape, dtype and device.
        side, overlap: in pixels, overlap < side.
    """
    if not 0 <= overlap < side:
        raise BadInput(f"tile={side}, overlap={overlap}: a tile must be larger than the overlap, which is 0 or more")
    height, width = like.shape[-2:]
    tall, wide = min(side, height), min(side, width)
    window = Bell()(tall, wide).to(like)
    total, weight = torch.zeros_like(like), torch.zeros_like(like[:1, :1])
    for top in starts(height, tall, side - overlap):
        for left in starts(width, wide, side - overlap):
            box = Box(top, left, tall, wide)
            box.add(total, window * run(box))
            box.add(weight, window)
    return total / weight


def starts(length: int, side: int, step: int) -> list[int]:
    """First pixels of tiles that cover a length, the last one flush with its end."""
    return [*range(0, length - side, step), length - side]
