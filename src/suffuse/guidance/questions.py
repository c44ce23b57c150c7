"""Questions about a prompt, who answers them, and what the answers are worth: scorers of single pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..conditioning.phrases import noun_phrases
from ..core.errors import BadInput
from ..core.registry import method


@dataclass(frozen=True)
class Question:
    """A question with the answer that a faithful picture gives.

    Args:
        text: as one asks a model.
        about: the part of the prompt that it asks about.
        choices: possible answers.
        answer: the right one.
    """

    text: str
    about: str
    choices: tuple[str, ...] = ("yes", "no")
    answer: str = "yes"


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores (B,) of pictures, more is better, and the answers that they rest on, if any."""

    values: Tensor
    answers: list[tuple[str, ...]]


class Scorer(ABC):
    """What a picture is worth as a picture of a prompt. A frozen dataclass."""

    best: float | None = None
    """The highest score there is, or None."""

    @abstractmethod
    def __call__(self, pixels: Tensor, prompt: str) -> Scores:
        """Scores of pictures (B, 3, H, W) in [-1, 1]."""

    def questions(self, prompt: str) -> tuple[Question, ...]:
        """What it asks about each picture of a prompt."""
        return ()


class VQA(ABC):
    """Answers questions about pictures."""

    @abstractmethod
    def __call__(self, pixels: Tensor, question: Question) -> list[str]:
        """One of the question's choices for each picture (B, 3, H, W) in [-1, 1]."""


def write_questions(prompt: str) -> tuple[Question, ...]:
    """A question for the head of each noun phrase, for the phrase with all that it says, and for the whole prompt.

    Example:
        >>> [q.text for q in write_questions("a red circle left of a blue square")]
        ['Is there a circle?', 'Is there a red circle?', 'Is there a square?', 'Is there a blue square?',
         'Is there a red circle left of a blue square?']
    """
    asked: list[str] = []
    phrases = noun_phrases(prompt)
    for phrase in phrases:
        words = phrase.split()
        if words[0].lower() in ("a", "an", "the") and len(words) > 2:
            asked.append(f"a {words[-1]}")
        asked.append(phrase)
    if len(phrases) > 1:
        asked.append(prompt.strip().rstrip("."))
    return tuple(Question(f"{_verb(what)} there {what}?", what) for what in dict.fromkeys(asked))


def _verb(what: str) -> str:
    return "Are" if what.split()[0].lower() in ("two", "three", "four", "five", "six", "some") else "Is"


@method(tags=("selection",))
@dataclass(frozen=True)
class ReaderVQA(VQA):
    """The bundled reader, or one in a folder, asked about captions of the world.

    Args:
        folder: of a reader; None is the bundled one.

    Raises:
        BadInput: a question about what the world does not have.
    """

    folder: str | None = None

    def __call__(self, pixels: Tensor, question: Question) -> list[str]:
        from ..world.scene import SHAPES
        from ..zoo.judge import judge

        with torch.no_grad():
            reading = _reader(self.folder).read(pixels)
        word, several = question.about.removeprefix("a "), len(noun_phrases(question.about)) > 1
        if word in SHAPES:
            right = (reading.shape.argmax(-1) == SHAPES.index(word)).logical_and(reading.present).any(1)
        elif word == "background":
            right = torch.ones(len(pixels), dtype=torch.bool)
        elif word.endswith("background") and not several:
            right = judge(reading, [_caption(f"a red circle on {question.about}")] * len(pixels)).background.right
        else:
            verdict = judge(reading, [_caption(question.about)] * len(pixels))
            right = verdict.objects.right & verdict.texture.right & verdict.size.right & verdict.relation.right
            if several:
                right = right & verdict.count.right & verdict.background.right
        return ["yes" if r else "no" for r in right.tolist()]


@lru_cache(maxsize=4)
def _reader(folder: str | None) -> Any:
    from ..evaluation.features import load_reader

    return load_reader(folder)[0]


def _caption(text: str) -> Any:
    from ..world.captions import parse

    return parse(text)


@method(paper="imageselect", tags=("selection",))
@dataclass(frozen=True)
class TIFASelect(Scorer):
    """The share of questions about the prompt that a picture answers rightly.

    Args:
        vqa: who answers; the bundled reader knows the world of the bundled models only. Wrap any visual question
            answering model as a `VQA`.

    Reference: Karthik et al., 2305.13308, after Hu et al., TIFA, 2303.11897.

    Differs from the paper: questions are written by rules instead of a language model, one for each noun phrase, its
    head, and the whole prompt; `questions` may be overridden.
    """

    vqa: VQA = ReaderVQA()

    best = 1.0

    def questions(self, prompt: str) -> tuple[Question, ...]:
        return write_questions(prompt)

    def __call__(self, pixels: Tensor, prompt: str) -> Scores:
        asked = self.questions(prompt)
        if not asked:
            raise BadInput(f"prompt={prompt!r}: there is nothing in it to ask about; use RewardSelect")
        answers = list(zip(*(self.vqa(pixels, q) for q in asked), strict=True))
        right = [[a == q.answer for a, q in zip(row, asked, strict=True)] for row in answers]
        return Scores(torch.tensor(right).double().mean(1), answers)


@method(paper="imageselect", tags=("selection",))
@dataclass(frozen=True)
class RewardSelect(Scorer):
    """What a model of human preference, or any other function of picture and prompt, says.

    Args:
        reward: a score of pictures that reads prompts, such as `CLIPScore(folder)`; or a function (pixels (B, 3, H, W)
            in [-1, 1], prompts) -> (B,) rewards.

    Example:
        >>> best = select(model, "a red circle", scorer=RewardSelect(CLIPScore("clip-vit-base-patch32")), n=8)

    Reference: Karthik et al., 2305.13308.
    """

    reward: Any

    def __call__(self, pixels: Tensor, prompt: str) -> Scores:
        from ..evaluation.pictures import Pictures
        from ..evaluation.scores import Scored

        prompts = [prompt] * len(pixels)
        scored = isinstance(self.reward, Scored)
        values = self.reward.score(Pictures(pixels, prompts)) if scored else self.reward(pixels, prompts)
        return Scores(torch.as_tensor(values).double(), [()] * len(pixels))


@method(paper="imageselect", tags=("selection",))
@dataclass(frozen=True)
class Combined(Scorer):
    """sum_i weight_i score_i of several scorers.

    Args:
        scorers: them.
        weights: one each; 1 where none are given.
    """

    scorers: tuple[Scorer, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.scorers):
            raise BadInput(f"Combined(weights={self.weights}): give one for each of {len(self.scorers)} scorers")

    def questions(self, prompt: str) -> tuple[Question, ...]:
        return tuple(q for scorer in self.scorers for q in scorer.questions(prompt))

    def __call__(self, pixels: Tensor, prompt: str) -> Scores:
        found = [scorer(pixels, prompt) for scorer in self.scorers]
        weights = self.weights or (1.0,) * len(found)
        total = sum((w * f.values for w, f in zip(weights, found, strict=True)), torch.zeros(len(pixels)).double())
        return Scores(total, [tuple(a for f in found for a in f.answers[k]) for k in range(len(pixels))])
