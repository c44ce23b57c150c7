"""The judge: does a picture, as read by the reader, show what its caption says?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from suffuse.core.errors import BadInput
from suffuse.world.captions import Caption
from suffuse.world.layout import slack
from suffuse.world.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES
from suffuse.zoo.reader import Reading

SOFTNESS = 0.05
"""Width of the step of a relation's soft score, as a fraction of the picture's side."""


@dataclass(frozen=True)
class Verdict:
    """One question about n pictures: `right` (n,) booleans, `score` (n,) in [0, 1], and `asked` (n,).

    Where the caption says nothing on it, `asked` is false, `right` true and `score` 1.
    """

    right: Tensor
    score: Tensor
    asked: Tensor

    @property
    def tally(self) -> tuple[int, int]:
        """How many of the captions that ask are right, and how many ask."""
        return int((self.right & self.asked).sum()), int(self.asked.sum())


@dataclass(frozen=True)
class Judgement:
    """Verdicts on n pictures.

    `shape` and `colour`: every shape (colour) mentioned is there, on whatever object; `objects`: every mentioned pair
    of shape and colour is there, one-to-one; `texture`, `size`: those of the objects so matched; `count`: neither more
    nor fewer objects than mentioned; `relation`, `background`; `whole`: all of it.
    """

    shape: Verdict
    colour: Verdict
    objects: Verdict
    texture: Verdict
    size: Verdict
    count: Verdict
    relation: Verdict
    background: Verdict
    whole: Verdict

    def tallies(self) -> dict[str, tuple[int, int]]:
        """Right and asked for every verdict, by name."""
        return {field.name: getattr(self, field.name).tally for field in fields(self)}


Answer = tuple[bool, float] | None
"""Right and score of one question on one picture; None where the caption does not ask."""


def judge(reading: Reading, captions: Sequence[Caption]) -> Judgement:
    """Check every picture read against its caption."""
    if len(reading) != len(captions):
        raise BadInput(f"captions has {len(captions)} entries for {len(reading)} pictures: give one for each")
    seen = _Seen.of(reading)
    answers = [_judge_one(seen, row, caption) for row, caption in enumerate(captions)]
    return Judgement(**{name: _verdict([answer[name] for answer in answers]) for name in answers[0]})


@dataclass(frozen=True)
class _Seen:
    """A reading as nested lists, in which single entries are cheap to look up."""

    count: list[int]
    expected: list[float]
    shape: list[list[list[float]]]
    colour: list[list[list[float]]]
    texture: list[list[list[float]]]
    size: list[list[list[float]]]
    x: list[list[float]]
    y: list[list[float]]
    background: list[list[float]]

    @classmethod
    def of(cls, reading: Reading) -> _Seen:
        def whole(name: str) -> list:
            return getattr(reading, name).detach().tolist()

        expected = reading.score.detach().sum(1).tolist()
        names = ("shape", "colour", "texture", "size", "x", "y", "background")
        return cls(reading.count.tolist(), expected, *(whole(name) for name in names))


def _judge_one(seen: _Seen, row: int, caption: Caption) -> dict[str, Answer]:
    wanted, slots = caption.objects, range(seen.count[row])
    shape = [[seen.shape[row][slot][SHAPES.index(phrase.shape)] for slot in slots] for phrase in wanted]
    colour = [[seen.colour[row][slot][COLOURS.index(phrase.colour)] for slot in slots] for phrase in wanted]
    texture = [[_chance(seen.texture[row][slot], TEXTURES, phrase.texture) for slot in slots] for phrase in wanted]
    size = [[_chance(seen.size[row][slot], SIZES, phrase.size) for slot in slots] for phrase in wanted]
    both = [[s * c for s, c in zip(*rows, strict=True)] for rows in zip(shape, colour, strict=True)]
    ranked = [
        [b + 0.1 * t + 0.1 * z for b, t, z in zip(*rows, strict=True)] for rows in zip(both, texture, size, strict=True)
    ]
    match = _assign(ranked)
    answers: dict[str, Answer] = {
        "shape": _all([_present(seen.shape[row], shape, _assign(shape), i) for i in range(len(wanted))]),
        "colour": _all([_present(seen.colour[row], colour, _assign(colour), i) for i in range(len(wanted))]),
    }
    pairs = [
        _and(_present(seen.shape[row], shape, match, i), _present(seen.colour[row], colour, match, i))
        for i in range(len(wanted))
    ]
    answers["objects"] = _all(pairs)
    for name, table, chances in (("texture", texture, seen.texture[row]), ("size", size, seen.size[row])):
        said = [i for i, phrase in enumerate(wanted) if getattr(phrase, name)]
        answers[name] = _all([_present(chances, table, match, i) for i in said])
    answers["count"] = (len(slots) == len(wanted), max(0.0, 1 - abs(seen.expected[row] - len(wanted))))
    answers["relation"] = _relation(seen, row, caption, match, pairs)
    answers["background"] = _background(seen.background[row], caption.background)
    answers["whole"] = _all([answer for name, answer in answers.items() if name not in ("shape", "colour") and answer])
    return answers


def _chance(chances: list[float], names: tuple[str, ...], name: str | None) -> float:
    return chances[names.index(name)] if name else 0.0


def _assign(table: list[list[float]]) -> dict[int, int]:
    """The one-to-one match of wanted objects to seen ones with the greatest sum."""
    if not table or not table[0]:
        return {}
    if len(table) == 1:
        return {0: table[0].index(max(table[0]))}
    return {int(i): int(slot) for i, slot in zip(*linear_sum_assignment(table, maximize=True), strict=True)}


def _present(chances: list[list[float]], table: list[list[float]], match: dict[int, int], i: int) -> tuple[bool, float]:
    """Whether what object `i` is wanted to be is the most probable class of the object matched to it."""
    if i not in match:
        return False, 0.0
    chance = table[i][match[i]]
    return chance == max(chances[match[i]]), chance


def _and(one: tuple[bool, float], other: tuple[bool, float]) -> tuple[bool, float]:
    return one[0] and other[0], one[1] * other[1]


def _all(answers: list[tuple[bool, float]]) -> Answer:
    if not answers:
        return None
    return all(right for right, _ in answers), math.prod(score for _, score in answers)


def _relation(
    seen: _Seen, row: int, caption: Caption, match: dict[int, int], pairs: list[tuple[bool, float]]
) -> Answer:
    if caption.relation is None:
        return None
    first, last = match.get(0), match.get(caption.phrases[0].count)
    if first is None or last is None:
        return False, 0.0
    dx, dy = seen.x[row][last] - seen.x[row][first], seen.y[row][last] - seen.y[row][first]
    found = _and(pairs[0], pairs[-1])
    room = float(slack(caption.relation, dx, dy))
    return found[0] and room >= 0, found[1] / (1 + math.exp(-room / SOFTNESS))


def _background(chances: list[float], background: str | None) -> Answer:
    if background is None:
        return None
    chance = chances[BACKGROUNDS.index(background)]
    return chance == max(chances), chance


def _verdict(answers: list[Answer]) -> Verdict:
    right = torch.tensor([answer is None or answer[0] for answer in answers])
    score = torch.tensor([1.0 if answer is None else answer[1] for answer in answers])
    return Verdict(right, score, torch.tensor([answer is not None for answer in answers]))
