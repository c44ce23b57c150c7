"""EditBench: attribute swaps in the procedural world, whose true results are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F

from ..core.errors import BadInput, nearest
from ..world import COLOURS, HELD_OUT, SHAPES, TEXTURES, Caption, Phrase, Scenes, WorldConfig, render, sample_scenes
from ..world.scene import generator
from .cases import Cases
from .edit_case import EditCase

KINDS = {"colour": COLOURS, "shape": SHAPES, "texture": TEXTURES}
"""What may be swapped, and for what."""

MARGIN = 2
"""Pixels around the changed ones that belong to the region too, because latent pictures are not sharper."""


@dataclass(frozen=True)
class EditBench(Cases[EditCase]):
    """Scenes of one or two objects of which the first changes its colour, shape or texture; all else stays.

    A case has the picture, the captions before and after, the region that changes (of both renderings, shadows
    included) and the true result. Combinations of colour and shape that no training picture shows do not occur.

    Args:
        n: number of cases.
        kinds: swaps that take turns: "colour", "shape", "texture" (striped for dotted, or the other way round).
        objects: weights of scenes of one object and of two.
        resolution: of the pictures.
        seed: of everything.
    """

    n: int = 40
    kinds: tuple[str, ...] = ("colour", "shape")
    objects: tuple[float, float] = (0.5, 0.5)
    resolution: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise BadInput(f"kinds has {kind!r}: {nearest(kind, KINDS)}")

    def __len__(self) -> int:
        return self.n

    def case(self, k: int) -> EditCase:
        return self._cases[k]

    @cached_property
    def _cases(self) -> list[EditCase]:
        before, kinds = self._scenes()
        random = generator(self.seed, 2)
        after = replace(before, **{kind: getattr(before, kind).clone() for kind in KINDS})
        for row, kind in enumerate(kinds):
            table, rest = getattr(after, kind), KINDS[kind][kind == "texture" :]  # captions do not say "plain"
            options = [v for v in rest if self._allowed(before, row, kind, v)]
            table[row, 0] = KINDS[kind].index(options[int(random.integers(len(options)))])
        first, second = (render(s, self.resolution, maps=("masks",)) for s in (before, after))
        changed = (first.rgb - second.rgb).abs().amax(1) > 1 / 255
        for views in (first, second):
            assert views.masks is not None
            changed = changed | (views.masks[:, 0] > 0)
        region = F.max_pool2d(changed.float()[:, None], 2 * MARGIN + 1, 1, MARGIN)[:, 0] > 0
        return [
            EditCase(
                name=f"{kind} {row}",
                kind=kind,
                image=first.rgb[row],
                source=str(_caption(before, row, kind)),
                target=str(_caption(after, row, kind)),
                mask=region[row],
                words=tuple(KINDS[kind][int(getattr(s, kind)[row, 0])] for s in (before, after)),
                wanted=str(Caption((_phrase(after, row, 0, kind),))),
                truth=second.rgb[row],
            )
            for row, kind in enumerate(kinds)
        ]

    def _scenes(self) -> tuple[Scenes, list[str]]:
        """Scenes whose objects differ in shape and in colour, and the swap of each."""
        drawn = sample_scenes(4 * self.n + 16, (self.seed, 1), WorldConfig(self.objects, equal=0.0, textured=0.0))
        alike = ((drawn.shape[:, :1] == drawn.shape[:, 1:]) | (drawn.colour[:, :1] == drawn.colour[:, 1:])).any(1)
        scenes = drawn[torch.nonzero(~alike | (drawn.count == 1))[: self.n, 0]]
        kinds = [self.kinds[row % len(self.kinds)] for row in range(self.n)]
        striped = torch.tensor([1 + row % 2 if kind == "texture" else 0 for row, kind in enumerate(kinds)])
        texture = scenes.texture.clone()
        texture[:, 0] = striped
        return replace(scenes, texture=texture), kinds

    def _allowed(self, scenes: Scenes, row: int, kind: str, value: str) -> bool:
        """Whether the first object may get this value: not its own, not another object's, no held-out combination."""
        others = slice(0, int(scenes.count[row]) if kind != "texture" else 1)
        if KINDS[kind].index(value) in getattr(scenes, kind)[row, others].tolist():
            return False
        phrase = _phrase(scenes, row, 0, kind)
        changed = {"colour": phrase.colour, "shape": phrase.shape, kind: value}
        return (changed["colour"], changed["shape"]) not in HELD_OUT


def _phrase(scenes: Scenes, row: int, slot: int, kind: str) -> Phrase:
    texture = TEXTURES[int(scenes.texture[row, slot])] if kind == "texture" and slot == 0 else None
    return Phrase(SHAPES[int(scenes.shape[row, slot])], COLOURS[int(scenes.colour[row, slot])], texture)


def _caption(scenes: Scenes, row: int, kind: str) -> Caption:
    return Caption(tuple(_phrase(scenes, row, slot, kind) for slot in range(int(scenes.count[row]))))
