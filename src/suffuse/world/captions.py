"""Captions: what a prompt says about a scene, written in five languages and read back from English."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from suffuse.core.errors import BadInput, nearest
from suffuse.world import languages
from suffuse.world.layout import RELATIONS, holds
from suffuse.world.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES, Scenes, Wanted, WorldConfig, complete
from suffuse.world.scene import generator as philox

COUNTS = ("one", "two", "three")
MENTION = (0.3, 0.6, 0.25)
"""Chance to mention the size, the texture of an object that is not plain, and the background."""

RELATE = 0.75
"""Chance to state the relation of two objects instead of joining them with "and"."""


@dataclass(frozen=True)
class Phrase:
    """One noun phrase: `count` objects of one colour and shape; `texture` and `size` are None where unsaid."""

    shape: str
    colour: str
    texture: str | None = None
    size: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Caption:
    """What a prompt says: phrases, the `relation` of the first to the second, the `background`; None where unsaid."""

    phrases: tuple[Phrase, ...]
    relation: str | None = None
    background: str | None = None

    @property
    def count(self) -> int:
        """Number of objects, of which a true picture shows neither more nor fewer."""
        return sum(phrase.count for phrase in self.phrases)

    @property
    def objects(self) -> tuple[Phrase, ...]:
        """The objects one by one: each phrase as often as it counts."""
        return tuple(phrase for phrase in self.phrases for _ in range(phrase.count))

    def text(self, language: str = "en") -> str:
        """The caption in `language`: "en", "de", "es", "fr" or "zh"."""
        if language not in languages.LANGUAGES:
            raise BadInput(f"language={language!r}: {nearest(language, languages.LANGUAGES)}")
        return languages.LANGUAGES[language](self.phrases, self.relation, self.background)

    def __str__(self) -> str:
        return self.text()


def describe(scenes: Scenes, seed: int | tuple[int, ...]) -> list[Caption]:
    """One true caption for each scene; the same for the same seed.

    Colour and shape are always said, the rest at random. Objects of one colour and shape are counted together.
    Two unlike objects are mostly related by the axis on which they lie further apart.
    """
    if (scenes.count == 0).any():
        raise BadInput("scenes has scenes without objects: give at least one object to each that is to be described")
    n, slots = scenes.shape.shape
    random = philox(*((seed,) if isinstance(seed, int) else seed), 1)
    chance = random.random((n, 2 * slots + 3))
    say = chance < np.array([MENTION[0]] * slots + [MENTION[1]] * slots + [MENTION[2], RELATE, 0.5])
    say[:, slots : 2 * slots] &= scenes.texture.numpy() > 0
    size = np.where(say[:, :slots], scenes.size.numpy(), -1)
    texture = np.where(say[:, slots : 2 * slots], scenes.texture.numpy(), -1)
    attributes = np.stack([scenes.shape.numpy(), scenes.colour.numpy(), texture, size], -1).tolist()
    background = np.where(say[:, 2 * slots], scenes.background.numpy(), -1).tolist()
    swap = say[:, -1].tolist()
    related = _relations(scenes)
    relation = np.where(say[:, -2], related, -1).tolist()
    captions = []
    for objects, count, behind, how, swapped in zip(
        attributes, scenes.count.tolist(), background, relation, swap, strict=True
    ):
        phrases = _group(objects[:count])
        related_by = None
        if how >= 0 and count == len(phrases) == 2:
            related_by = RELATIONS[how ^ 1] if swapped else RELATIONS[how]
        if swapped:
            phrases = phrases[::-1]
        captions.append(Caption(phrases, related_by, BACKGROUNDS[behind] if behind >= 0 else None))
    return captions


def scenes_from_caption(captions: list[Caption], seed: int, config: WorldConfig | None = None) -> Scenes:
    """Scenes that show exactly what each caption says, all else drawn from `config`: true pictures of given prompts."""
    config = config or WorldConfig(held_out="free")
    n, slots = len(captions), max(len(config.objects), *(caption.count for caption in captions), 1)
    shape, colour, texture, size = (np.full((n, slots), -1) for _ in range(4))
    for row, caption in enumerate(captions):
        for slot, phrase in enumerate(caption.objects):
            shape[row, slot] = SHAPES.index(phrase.shape)
            colour[row, slot] = COLOURS.index(phrase.colour)
            texture[row, slot] = TEXTURES.index(phrase.texture) if phrase.texture else -1
            size[row, slot] = SIZES.index(phrase.size) if phrase.size else -1
    count = np.array([caption.count for caption in captions])
    background = np.array([BACKGROUNDS.index(c.background) if c.background else -1 for c in captions])
    relation = np.array([RELATIONS.index(c.relation) if c.relation else -1 for c in captions])
    return complete(Wanted(shape, colour, texture, size, count, background, relation), seed, config)


def parse(text: str) -> Caption:
    """The caption that an English text says; the inverse of `Caption.text()`. Raises `BadInput` naming the odd word."""
    words = text.lower().replace(",", " , ").replace(".", " ").split()
    background = None
    if words[-1:] == ["background"]:
        if len(words) < 4 or words[-4] != "on" or words[-3] != "a" or words[-2] not in BACKGROUNDS:
            raise BadInput(f"text={text!r}: end it with 'on a ({'|'.join(BACKGROUNDS)}) background'")
        words, background = words[:-4], words[-2]
    relation = None
    pieces: list[list[str]] = [[]]
    position = 0
    while position < len(words):
        word, pair = words[position], " ".join(words[position : position + 2])
        found = next((r for r in RELATIONS if r in (word, pair)), None)
        if found:
            if relation or len(pieces) > 1:
                raise BadInput(f"text={text!r}: relate two objects only, as in 'a red circle {found} a blue square'")
            relation, position = found, position + found.count(" ")
        if found or word in ("and", ","):
            pieces.append([])
        else:
            pieces[-1].append(word)
        position += 1
    if relation and len(pieces) != 2:
        raise BadInput(f"text={text!r}: relate two objects only, as in 'a red circle {relation} a blue square'")
    return Caption(tuple(_parse_phrase(piece, text) for piece in pieces), relation, background)


def vocabulary() -> list[str]:
    """Every word of the English captions, sorted."""
    words = {"a", "an", "and", "on", "background", ",", "of", "left", "right", "above", "below", *COUNTS[1:]}
    words |= {*COLOURS, *TEXTURES[1:], *SIZES, *BACKGROUNDS, *SHAPES, *(languages.plural(shape) for shape in SHAPES)}
    return sorted(words)


_SINGULAR = {languages.plural(shape): shape for shape in SHAPES}
_NUMBER = {"a": 1, "an": 1, **{word: count + 1 for count, word in enumerate(COUNTS)}}


def _parse_phrase(words: list[str], text: str) -> Phrase:
    count, size, texture, colour, shape = 1, None, None, None, None
    for word in words:
        if word in _NUMBER and shape is colour is size is texture is None:
            count = _NUMBER[word]
        elif word in SIZES and size is None and shape is None:
            size = word
        elif word in TEXTURES and texture is None and shape is None:
            texture = word
        elif word in COLOURS and colour is None and shape is None:
            colour = word
        elif (word in SHAPES or word in _SINGULAR) and shape is None:
            shape = _SINGULAR.get(word, word)
        else:
            known = [*_NUMBER, *SIZES, *TEXTURES, *COLOURS, *SHAPES, *RELATIONS, "and", "on"]
            raise BadInput(f"text={text!r}: {word!r} is not understood here; {nearest(word, known)}")
    if shape is None or colour is None:
        raise BadInput(f"text={text!r}: give each object a colour and a shape, as in 'a red circle'")
    return Phrase(shape, colour, texture, size, count)


@lru_cache(maxsize=8192)
def _phrase(shape: int, colour: int, texture: int, size: int, count: int) -> Phrase:
    return Phrase(
        SHAPES[shape],
        COLOURS[colour],
        TEXTURES[texture] if texture >= 0 else None,
        SIZES[size] if size >= 0 else None,
        count,
    )


def _group(objects: list[list[int]]) -> tuple[Phrase, ...]:
    """Phrases of objects in their order; alike ones are counted and keep only the attributes that all were to show."""
    if len(objects) == 1:
        return (_phrase(*objects[0], 1),)
    groups: dict[tuple[int, int], list[int]] = {}
    for shape, colour, texture, size in objects:
        kind = groups.setdefault((shape, colour), [texture, size, 0])
        kind[0] = texture if kind[0] == texture else -1
        kind[1] = size if kind[1] == size else -1
        kind[2] += 1
    return tuple(_phrase(*pair, *kind) for pair, kind in groups.items())


def _relations(scenes: Scenes) -> np.ndarray:
    """Index of the relation of the first object to the second along the dominant axis, -1 where there is none (n,)."""
    if scenes.shape.shape[1] < 2:
        return np.full(len(scenes), -1)
    dx = (scenes.x[:, 1] - scenes.x[:, 0]).numpy()
    dy = (scenes.y[:, 1] - scenes.y[:, 0]).numpy()
    relation = np.where(np.abs(dx) >= np.abs(dy), np.where(dx > 0, 0, 1), np.where(dy > 0, 2, 3))
    true = np.stack([holds(name, dx, dy) for name in RELATIONS])[relation, np.arange(len(scenes))]
    return np.where(true, relation, -1)
