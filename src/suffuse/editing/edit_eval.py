"""EditEval in the procedural world: the seven tasks of the survey, each with its true result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadInput, nearest
from ..world import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    RELATIONS,
    SHAPES,
    TEXTURES,
    Caption,
    Phrase,
    Scenes,
    WorldConfig,
    holds,
    render,
    sample_scenes,
)
from ..world.layout import MARGIN as BORDER
from ..world.scene import generator
from .cases import Cases
from .edit_bench import MARGIN
from .edit_case import EditCase

PLACES = 256
"""Places that are tried for an object that is to move."""

APART = 1.05
"""Least distance of a moved object from the other, in sums of their radii."""


@dataclass(frozen=True)
class Edit:
    """One scene before and after, and what is said of it.

    Args:
        before, after: batches of one scene.
        slots: objects that change, appear or go.
        caption: says, of a scene, what the prompts of this task say.
        words: the word before and after, or ().
        instruction: what is to be done.
    """

    before: Scenes
    after: Scenes
    slots: tuple[int, ...]
    caption: Callable[[Scenes], Caption]
    instruction: str
    words: tuple[str, ...] = ()


T = TypeVar("T")
Task = Callable[[Scenes, np.random.Generator], Edit | None]
"""An edit of one scene of two objects; None where this scene does not have it."""


def add(scene: Scenes, random: np.random.Generator) -> Edit:
    """A second object appears."""
    return Edit(_without(scene), scene, (1,), said, f"Add {Caption((phrase(scene, 1),))} to the picture.")


def replace_object(scene: Scenes, random: np.random.Generator) -> Edit:
    """The first object becomes one of another shape."""
    taken = {SHAPES[int(k)] for k in scene.shape[0]}
    colour = COLOURS[int(scene.colour[0, 0])]
    options = [s for s in SHAPES if s not in taken and (colour, s) not in HELD_OUT]
    after = _with(scene, "shape", SHAPES.index(_one(options, random)))
    words = tuple(SHAPES[int(s.shape[0, 0])] for s in (scene, after))
    return Edit(scene, after, (0,), said, f"Replace {the(scene, 0)} with {Caption((phrase(after, 0),))}.", words)


def remove(scene: Scenes, random: np.random.Generator) -> Edit:
    """The second object goes."""
    return Edit(scene, _without(scene), (1,), said, f"Remove {the(scene, 1)} from the picture.")


def background(scene: Scenes, random: np.random.Generator) -> Edit:
    """The background becomes one of another colour."""
    old = int(scene.background[0])
    new = _one([k for k in range(len(BACKGROUNDS)) if k != old], random)
    after = replace(scene, background=torch.full_like(scene.background, new))
    words = (BACKGROUNDS[old], BACKGROUNDS[new])
    told = f"Change the {words[0]} background to {words[1]}."
    return Edit(scene, after, (), lambda s: replace(said(s), background=BACKGROUNDS[int(s.background[0])]), told, words)


def style(scene: Scenes, random: np.random.Generator) -> Edit:
    """All objects are textured in another way."""
    return _textured(scene, random, (0, 1), lambda old, new: f"Make the whole picture {new} in place of {old}.")


def texture(scene: Scenes, random: np.random.Generator) -> Edit:
    """The first object is textured in another way."""
    return _textured(
        scene, random, (0,), lambda old, new: f"Change the texture of {the(scene, 0)} from {old} to {new}."
    )


def action(scene: Scenes, random: np.random.Generator) -> Edit | None:
    """The first object moves, so that it stands in another relation to the second."""
    radius = scene.radius[0].numpy()
    x, y = BORDER + radius[0] + (1 - 2 * (BORDER + radius[0])) * random.random((2, PLACES))
    dx, dy = float(scene.x[0, 1]) - x, float(scene.y[0, 1]) - y
    old = _relation(scene)
    free = (np.hypot(dx, dy) >= APART * radius[:2].sum()) & ~np.all(~_holding(dx, dy), 0) & ~holds(old, dx, dy)
    if not free.any():
        return None
    at = int(free.argmax())
    after = _with(_with(scene, "x", float(x[at])), "y", float(y[at]))
    new = _relation(after)
    told = f"Move {the(scene, 0)} so that it is {new} {the(scene, 1)}."
    return Edit(scene, after, (0,), lambda s: replace(said(s), relation=_relation(s)), told, (old, new))


TASKS: dict[str, Task] = {
    "add": add, "replace": replace_object, "remove": remove, "background": background, "style": style,
    "texture": texture, "action": action,
}  # fmt: skip
"""The survey's tasks, by name."""


@dataclass(frozen=True)
class EditEval(Cases[EditCase]):
    """Scenes of two unlike objects, each edited in one of seven ways; all else stays to the pixel.

    Tasks take turns: add and remove an object, replace it by another shape, another background, the texture of one
    object, the style (here: the texture of all objects), an action (here: an object moves to another side of the
    other). The prompts say the whole picture, so that the reader can tell whether it is as the target says.

    Args:
        n: cases of each task.
        tasks: names among `TASKS`.
        resolution: of the pictures.
        seed: of everything.

    Example:
        >>> EditEval(6)[0].instruction
        'Add a yellow diamond to the picture.'

    Reference: Huang et al., Diffusion Model-Based Image Editing: A Survey, 2402.17525.

    Differs from the paper: EditEval's pictures are photographs, whose true results nobody knows.
    """

    n: int = 6
    tasks: tuple[str, ...] = tuple(TASKS)
    resolution: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise BadInput(f"tasks has {task!r}: {nearest(task, TASKS)}")

    def __len__(self) -> int:
        return self.n * len(self.tasks)

    def case(self, k: int) -> EditCase:
        return self._cases[k]

    @cached_property
    def edits(self) -> list[tuple[str, Edit]]:
        """Task and scenes of each case."""
        random = generator(self.seed, 3)
        found: list[tuple[str, Edit]] = []
        config = WorldConfig((0.0, 1.0), equal=0.0, textured=0.0)
        drawn = sample_scenes(4 * len(self) + 16, (self.seed, 4), config)
        unlike = (drawn.shape[:, 0] != drawn.shape[:, 1]) & (drawn.colour[:, 0] != drawn.colour[:, 1])
        scenes = (drawn[[row]] for row in torch.nonzero(unlike)[:, 0].tolist())
        while len(found) < len(self):
            task = self.tasks[len(found) % len(self.tasks)]
            edit = TASKS[task](next(scenes), random)
            if edit is not None:
                found.append((task, edit))
        return found

    @cached_property
    def _cases(self) -> list[EditCase]:
        turns = [f"{task} {k // len(self.tasks)}" for k, (task, _) in enumerate(self.edits)]
        return [_case(name, *edit, self.resolution) for name, edit in zip(turns, self.edits, strict=True)]


def phrase(scene: Scenes, slot: int) -> Phrase:
    """An object as prompts say it; texture only where there is one."""
    pattern = int(scene.texture[0, slot])
    return Phrase(
        SHAPES[int(scene.shape[0, slot])], COLOURS[int(scene.colour[0, slot])], TEXTURES[pattern] if pattern else None
    )


def the(scene: Scenes, slot: int) -> str:
    """An object as an instruction points at it."""
    return f"the {COLOURS[int(scene.colour[0, slot])]} {SHAPES[int(scene.shape[0, slot])]}"


def said(scene: Scenes) -> Caption:
    """All objects of a scene."""
    return Caption(tuple(phrase(scene, slot) for slot in range(int(scene.count[0]))))


def _case(name: str, task: str, edit: Edit, resolution: int) -> EditCase:
    views = [render(s, resolution, maps=("masks",)) for s in (edit.before, edit.after)]
    changed = (views[0].rgb - views[1].rgb).abs().amax(1) > 1 / 255
    for view in views:
        assert view.masks is not None
        changed = changed | (view.masks[:, list(edit.slots)] > 0).any(1)
    source, target = (str(edit.caption(s)) for s in (edit.before, edit.after))
    return EditCase(
        name=name, kind=task, image=views[0].rgb[0], source=source, target=target, mask=_grown(changed)[0],
        words=edit.words, wanted=target, truth=views[1].rgb[0], instruction=edit.instruction,
    )  # fmt: skip


def _grown(region: Tensor) -> Tensor:
    return F.max_pool2d(region.float()[:, None], 2 * MARGIN + 1, 1, MARGIN)[:, 0] > 0


def _with(scene: Scenes, name: str, value: float) -> Scenes:
    """The scene whose first object has this value."""
    table = getattr(scene, name).clone()
    table[0, 0] = value
    return replace(scene, **{name: table})


def _without(scene: Scenes) -> Scenes:
    """The scene without its second object."""
    present = scene.present.clone()
    present[0, 1] = False
    return replace(scene, present=present)


def _textured(
    scene: Scenes, random: np.random.Generator, slots: tuple[int, ...], told: Callable[[str, str], str]
) -> Edit:
    old = 1 + int(random.integers(2))
    new, (before, after) = 3 - old, (scene.texture.clone() for _ in range(2))
    before[0, list(slots)], after[0, list(slots)] = old, new
    words = TEXTURES[old], TEXTURES[new]
    return Edit(replace(scene, texture=before), replace(scene, texture=after), slots, said, told(*words), words)


def _holding(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """(4, ...) whether each relation holds."""
    return np.stack([holds(name, dx, dy) for name in RELATIONS])


def _relation(scene: Scenes) -> str:
    """That of the first object to the second, along the axis on which they lie further apart."""
    dx, dy = (float(v[0, 1] - v[0, 0]) for v in (scene.x, scene.y))
    return ("left of", "right of")[dx < 0] if abs(dx) >= abs(dy) else ("above", "below")[dy < 0]


def _one(options: Sequence[T], random: np.random.Generator) -> T:
    return options[int(random.integers(len(options)))]
