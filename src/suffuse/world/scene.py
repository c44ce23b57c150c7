"""Scenes: what is where in a picture, as batched integer and real tensors, and how they are drawn at random.

All lengths are fractions of the side of the picture, with the origin at the top left, x to the right and y down.
Random numbers come from numpy's Philox counter generator, so that a seed means the same scenes everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from suffuse.core.errors import BadInput
from suffuse.world.layout import place

SHAPES = ("circle", "square", "triangle", "star", "ring", "heart", "diamond", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "large")
BACKGROUNDS = ("white", "grey", "black", "beige", "mint")
RADII = ((7 / 64, 9 / 64), (12 / 64, 15 / 64))
"""Range of the radius of a small and of a large object."""

HELD_OUT = (("purple", "star"), ("green", "ring"))
"""Combinations of colour and shape that no training picture shows."""


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes of at most K objects.

    `shape`, `colour`, `texture`, `size` (B, K) index the tuples of this module; `x`, `y` (B, K) are centres and
    `radius` (B, K) radii; `order` (B, K) is the rank in depth, 0 farthest; `present` (B, K) says which slots are used
    (the first ones); `background` (B,) indexes BACKGROUNDS; `gradient` (B,) is the amplitude of its gradient, 0 where
    it is plain, and `angle` (B,) its direction in radians.
    """

    shape: Tensor
    colour: Tensor
    texture: Tensor
    size: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    order: Tensor
    present: Tensor
    background: Tensor
    gradient: Tensor
    angle: Tensor

    def __len__(self) -> int:
        return self.shape.shape[0]

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Scenes:
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def count(self) -> Tensor:
        """Number of objects (B,)."""
        return self.present.sum(1)

    def to(self, device: torch.device | str) -> Scenes:
        return Scenes(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class WorldConfig:
    """The distribution of scenes.

    `objects[i]` weighs scenes of i + 1 objects; `equal` is the chance that all objects of a scene look alike;
    `textured` that an object is not plain; `large` that an object is large (from three objects on, at most one is);
    `graded` that the background is graded; `spacing` the least distance of two objects in sums of their radii (below 1
    they may overlap). `held_out` combinations are "never" shown, "always" shown by the first object, or "free".
    """

    objects: tuple[float, ...] = (0.45, 0.42, 0.13)
    equal: float = 0.2
    textured: float = 0.4
    large: float = 0.55
    graded: float = 0.25
    spacing: float = 1.02
    held_out: str = "never"

    def __post_init__(self) -> None:
        if not self.objects or min(self.objects) < 0 or sum(self.objects) <= 0:
            raise BadInput(f"objects={self.objects}: give non-negative weights with a positive sum")
        if self.held_out not in ("never", "always", "free"):
            raise BadInput(f"held_out={self.held_out!r}: give 'never', 'always' or 'free'")
        for name in ("equal", "textured", "large", "graded"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name}={getattr(self, name)}: give a probability in [0, 1]")


@dataclass(frozen=True)
class Wanted:
    """What scenes must show, -1 where free: attributes (n, K), `count`, `background` and `relation` (n,)."""

    shape: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    size: np.ndarray
    count: np.ndarray
    background: np.ndarray
    relation: np.ndarray


def generator(*key: int) -> np.random.Generator:
    """Philox generator of a tuple of non-negative integers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def sample_scenes(n: int, seed: int | tuple[int, ...], config: WorldConfig | None = None) -> Scenes:
    """Draw `n` scenes from `config`, the same for the same seed."""
    if n < 1:
        raise BadInput(f"n={n}: give at least 1 scene")
    config = config or WorldConfig()
    free = np.full((n, len(config.objects)), -1)
    row = free[:, 0]
    return complete(Wanted(free, free, free, free, row, row, row), seed, config)


def complete(wanted: Wanted, seed: int | tuple[int, ...], config: WorldConfig) -> Scenes:
    """Scenes that show what is wanted; whatever is free is drawn from `config`."""
    random = generator(*((seed,) if isinstance(seed, int) else seed))
    n, slots = wanted.shape.shape
    count = _filled(wanted.count, 1 + _weighted(random, n, config.objects))
    present = np.arange(slots) < count[:, None]
    shape, colour, texture, size = _attributes(random, n, slots, config)
    size = np.where((count[:, None] > 2) & (np.arange(slots) > 0), 0, size)
    alike = ((random.random(n) < config.equal) & (count > 1))[:, None]
    colour = _apart(random, shape, colour, config)
    shape, colour, texture, size = (np.where(alike, a[:, :1], a) for a in (shape, colour, texture, size))
    size = np.where(alike & (count[:, None] > 2), 0, size)
    shape, colour = _filled(wanted.shape, shape), _filled(wanted.colour, colour)
    texture, size = _filled(wanted.texture, texture), _filled(wanted.size, size)
    low, high = np.array(RADII).T
    radius = low[size] + (high - low)[size] * random.random((n, slots))
    background = _filled(wanted.background, _weighted(random, n, (1,) * len(BACKGROUNDS)))
    gradient = (random.random((n,)) < config.graded) * (0.04 + 0.05 * random.random((n,)))
    angle = random.random((n,)) * (2 * np.pi)
    order = np.argsort(np.argsort(random.random((n, slots)), 1), 1)
    relation = _filled(wanted.relation, _weighted(random, n, (1, 1, 1, 1)))
    x, y = place(random, radius, count, relation, config.spacing)
    return Scenes(
        shape=_whole(shape),
        colour=_whole(colour),
        texture=_whole(texture),
        size=_whole(size),
        x=_real(x),
        y=_real(y),
        radius=_real(radius),
        order=_whole(order),
        present=torch.from_numpy(present),
        background=_whole(background),
        gradient=_real(gradient),
        angle=_real(angle),
    )


def _whole(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def _real(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _filled(wanted: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return np.where(wanted < 0, drawn, wanted)


def _weighted(random: np.random.Generator, shape: int | tuple[int, ...], weights: Sequence[float]) -> np.ndarray:
    bounds = np.cumsum(weights) / np.sum(weights)
    return np.minimum(np.searchsorted(bounds, random.random(shape), side="right"), len(weights) - 1)


def _attributes(random: np.random.Generator, n: int, slots: int, config: WorldConfig) -> tuple[np.ndarray, ...]:
    shape = _weighted(random, (n, slots), (1,) * len(SHAPES))
    colour = _weighted(random, (n, slots), (1,) * len(COLOURS))
    fancy = config.textured / (len(TEXTURES) - 1)
    texture = _weighted(random, (n, slots), (1 - config.textured, *(fancy,) * (len(TEXTURES) - 1)))
    size = _weighted(random, (n, slots), (1 - config.large, config.large))
    return shape, colour, texture, size


def _apart(random: np.random.Generator, shape: np.ndarray, colour: np.ndarray, config: WorldConfig) -> np.ndarray:
    """Colours moved away from the held-out combinations; where they are wanted, `shape` is set in place."""
    shift = 1 + _weighted(random, shape.shape, (1,) * (len(COLOURS) - 1))
    pair = _weighted(random, shape.shape[0], (1,) * len(HELD_OUT))
    if config.held_out != "free":
        for hue, form in HELD_OUT:
            hit = (shape == SHAPES.index(form)) & (colour == COLOURS.index(hue))
            colour = np.where(hit, (colour + shift) % len(COLOURS), colour)
    if config.held_out == "always":
        shape[:, 0] = np.array([SHAPES.index(form) for _, form in HELD_OUT])[pair]
        colour[:, 0] = np.array([COLOURS.index(hue) for hue, _ in HELD_OUT])[pair]
    return colour
