"""Batches of pictures with captions: an endless training split and two frozen ones."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from suffuse.core.errors import BadInput, nearest
from suffuse.world.captions import Caption, describe
from suffuse.world.render import Views, render
from suffuse.world.scene import Scenes, WorldConfig, sample_scenes

FROZEN = {"validation": (512, "never"), "held-out": (128, "always")}
"""Frozen splits: number of scenes, and what they do with held-out combinations."""

_STREAM = {"train": 0, "validation": 1, "held-out": 2}


@lru_cache(maxsize=2)
def frozen(split: str) -> tuple[Scenes, tuple[Caption, ...]]:
    """All scenes and captions of "validation" or "held-out"."""
    if split not in FROZEN:
        raise BadInput(f"split={split!r}: {nearest(split, FROZEN)}")
    size, held_out = FROZEN[split]
    key = (_STREAM[split], 0)
    scenes = sample_scenes(size, key, WorldConfig(held_out=held_out))
    return scenes, tuple(describe(scenes, key))


def batch(
    split: str,
    index: int,
    size: int,
    resolution: int = 64,
    maps: Collection[str] = (),
    seed: int = 0,
    config: WorldConfig | None = None,
) -> tuple[Views, list[Caption]]:
    """Batch number `index` of `size` pictures of a split with their captions, always the same for the same arguments.

    "train" is endless and takes `seed` and `config`; "validation" (512) and "held-out" (128) are frozen: neither
    applies, the last batch may be short, and one beyond it is refused.
    """
    if index < 0 or size < 1:
        raise BadInput(f"index={index}, size={size}: give an index from 0 and a size from 1")
    if split == "train":
        key = (_STREAM[split], seed, index)
        scenes = sample_scenes(size, key, config)
        return render(scenes, resolution, maps), describe(scenes, key)
    scenes, captions = frozen(split)
    rows = slice(index * size, (index + 1) * size)
    if rows.start >= len(scenes):
        raise BadInput(f"index={index}: {split!r} has {-(-len(scenes) // size)} batches of {size}; give a lower index")
    return render(scenes[rows], resolution, maps), list(captions[rows])


@dataclass(frozen=True)
class Stream:
    """An endless source of training batches from number `start` on; resume by the number of the next batch."""

    size: int
    seed: int = 0
    start: int = 0
    resolution: int = 64
    maps: tuple[str, ...] = ()
    config: WorldConfig | None = None

    def __iter__(self) -> Iterator[tuple[Views, list[Caption]]]:
        index = self.start
        while True:
            yield batch("train", index, self.size, self.resolution, self.maps, self.seed, self.config)
            index += 1


def digest(scenes: Scenes, captions: Collection[Caption]) -> str:
    """SHA-256 of the integer arrays of the scenes and of the English captions."""
    sha = hashlib.sha256()
    for array in (scenes.shape, scenes.colour, scenes.texture, scenes.size, scenes.order, scenes.present):
        sha.update(np.ascontiguousarray(array.numpy(), dtype="<i8").tobytes())
    sha.update(scenes.background.numpy().astype("<i8").tobytes())
    sha.update("\n".join(caption.text() for caption in captions).encode())
    return sha.hexdigest()
