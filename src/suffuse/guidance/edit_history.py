"""The Stable Artist at work: a picture is edited concept by concept, each edit can be undone, all can be replayed.

Reference: Brack et al., The Stable Artist: Steering Semantics in Diffusion Latent Space, 2212.06013.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image

from ..core.errors import BadInput, Damaged
from ..core.expression import parse, unparse
from ..core.files import atomic_write
from ..core.guidance import Guidance
from ..core.model import Model
from ..core.registry import method
from ..core.sampler import Sampler
from ..samplers.ancestral import DDIM
from .cfg import CFG
from .directions import Concept
from .sega import StableArtist, Steering


@method(paper="stable-artist", tags=("editing",))
@dataclass(frozen=True)
class EditHistory:
    """What was done to a picture: the run that makes it, and the concepts after every edit.

    It is a value: each edit returns another history, and everything follows from it, so that its file is the log from
    which the pictures are made again.

    Args:
        prompt, seed, steps, sampler: of the picture that all begins with.
        steering: how concepts are added, `StableArtist(())` or `SEGA(())`; its concepts are put in.
        guidance: of the prompt.
        states: the concepts after every edit, the latest last.
        undone: how many of these edits are undone.

    Raises:
        BadInput: a concept that is not there, or no edit to undo or redo.

    Example:
        >>> history = EditHistory("a red circle", guidance=CFG(5)).add(Concept("striped")).add(Concept("large")).undo()
        >>> [picture.save(f"{k}.png") for k, picture in enumerate(replay_edits(model, history))]
    """

    prompt: str
    seed: int = 0
    steps: int = 50
    sampler: Sampler = DDIM()
    steering: Steering = StableArtist(())
    guidance: Guidance = CFG(7.5)
    states: tuple[tuple[Concept, ...], ...] = ()
    undone: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.undone <= len(self.states):
            raise BadInput(
                f"EditHistory(undone={self.undone}): there are {len(self.states)} edits; give 0 to that many"
            )

    @property
    def done(self) -> tuple[tuple[Concept, ...], ...]:
        """The concepts before the first edit (none), and after each that is not undone."""
        return ((), *self.states[: len(self.states) - self.undone])

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """The concepts as they are now."""
        return self.done[-1]

    def add(self, concept: Concept) -> EditHistory:
        """One concept more."""
        return self._edited((*self.concepts, concept))

    def drop(self, k: int) -> EditHistory:
        """Without the concept number k."""
        self._check(k)
        return self._edited((*self.concepts[:k], *self.concepts[k + 1 :]))

    def change(self, k: int, concept: Concept) -> EditHistory:
        """Concept number k replaced, such as by `dataclasses.replace(concept, weight=0.5)`."""
        self._check(k)
        return self._edited((*self.concepts[:k], concept, *self.concepts[k + 1 :]))

    def undo(self) -> EditHistory:
        """Before the latest edit."""
        if self.undone == len(self.states):
            raise BadInput("undo: no edit is left to undo")
        return replace(self, undone=self.undone + 1)

    def redo(self) -> EditHistory:
        """The latest undone edit again; another edit forgets it."""
        if not self.undone:
            raise BadInput("redo: no edit is undone")
        return replace(self, undone=self.undone - 1)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the log, a text file of one expression."""
        return atomic_write(path, (unparse(self) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EditHistory:
        """Read what `save` wrote.

        Raises:
            BadInput: there is no such file. Damaged: it is not a log of edits.
        """
        if not Path(path).is_file():
            raise BadInput(f"path: there is no file {path}; give one that EditHistory.save wrote")
        try:
            return parse(Path(path).read_text("utf-8").strip(), cls)
        except (BadInput, UnicodeDecodeError) as error:
            raise Damaged(f"{path}: not a log of edits ({error}); save the history again") from error

    def _edited(self, concepts: tuple[Concept, ...]) -> EditHistory:
        return replace(self, states=(*self.done[1:], concepts), undone=0)

    def _check(self, k: int) -> None:
        if not 0 <= k < len(self.concepts):
            raise BadInput(f"k={k}: there are {len(self.concepts)} concepts; give 0 to {len(self.concepts) - 1}")


@method(paper="stable-artist", tags=("editing",))
def replay_edits(model: Model, history: EditHistory) -> list[Image.Image]:
    """The pictures of a history: before the first edit, and after each that is not undone.

    Args:
        model: the one that the history was made with.
        history: with its prompt, seed and edits.
    """
    return [_made(model, history, concepts)[0] for concepts in history.done]


@dataclass(frozen=True, eq=False)
class Slider:
    """Positions of a strength slider.

    Attributes:
        levels: share of the edits' weights at each, rising from 0.
        distances: of each from the picture without edits, in the model's own states; they rise too.
        images: the pictures.
    """

    levels: tuple[float, ...]
    distances: tuple[float, ...]
    images: list[Image.Image] = field(repr=False)


@method(paper="stable-artist", tags=("editing",))
def strength_slider(model: Model, history: EditHistory, levels: Sequence[float] = (0.25, 0.5, 0.75, 1.0)) -> Slider:
    """The edits of a history at rising strength, from none on, each further from the start than the one before.

    A level multiplies the weight of every concept. The change of a picture mostly, but not always, grows with it:
    levels at which it would fall back are left out, so that the slider is monotone.

    Args:
        model: the one that the history was made with.
        history: its present concepts are scaled.
        levels: rising, above 0.

    Raises:
        BadInput: levels that do not rise.
    """
    if any(b <= a for a, b in zip((0.0, *levels), levels, strict=False)):
        raise BadInput(f"levels={tuple(levels)}: give numbers that rise, the first above 0")
    image, start = _made(model, history, ())
    kept = [(0.0, 0.0, image)]
    for level in levels:
        image, x = _made(model, history, tuple(replace(c, weight=level * c.weight) for c in history.concepts))
        distance = float((x - start).norm())
        if distance > kept[-1][1]:
            kept.append((level, distance, image))
    found, distances, images = zip(*kept, strict=True)
    return Slider(found, distances, list(images))


@method(paper="stable-artist", tags=("probe",))
def probe_concept(
    model: Model,
    concept: Concept,
    prompts: Sequence[str],
    strengths: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0),
    *,
    steering: Steering = StableArtist(()),
    guidance: Guidance = CFG(7.5),
    sampler: Sampler = DDIM(),
    steps: int = 50,
    seed: int = 0,
) -> Mapping[float, list[Image.Image]]:
    """What a model takes a concept to be: neutral prompts under its direction, at several strengths of both signs.

    Args:
        model: a loaded model.
        concept: what is probed; its `weight` and `remove` are set.
        prompts: neutral ones, a row of the grid each.
        strengths: weights, a column of the grid each; negative ones lead away from the concept, 0 leaves it out.
        steering, guidance, sampler, steps, seed: of all runs.

    Returns:
        strength -> the picture of each prompt.
    """
    grid = {}
    for s in strengths:
        steered = replace(steering, concepts=(replace(concept, weight=abs(s), remove=s < 0),) if s else ())
        how = {"guidance": steered | guidance, "sampler": sampler, "steps": steps, "seed": seed}
        grid[float(s)] = model.generate(list(prompts), **how).images  # type: ignore[arg-type]
    return grid


def _made(model: Model, history: EditHistory, concepts: tuple[Concept, ...]) -> tuple[Image.Image, torch.Tensor]:
    """The picture with these concepts, and its state."""
    guidance = replace(history.steering, concepts=concepts) | history.guidance
    out = model.generate(
        history.prompt, guidance=guidance, sampler=history.sampler, steps=history.steps, seed=history.seed
    )
    return out.images[0], out.latents[0]
