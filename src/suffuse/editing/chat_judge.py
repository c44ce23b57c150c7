"""The LMM score: a multimodal model describes the picture, sees all edits without their names, and marks each."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL.Image import Image
from torch import Tensor

from ..core.errors import BadInput, Refused
from ..images import to_pil
from .edit_case import EditCase
from .edit_judge import FACTORS, HIGH, LOW

DESCRIBE = (
    "You will judge edits of a picture. This is the picture before the edit. It is to be edited as follows: {what}. "
    "Describe the picture, then what a perfect edit would change and what it would leave alone."
)
MARK = (
    "These are {count} edits of the picture, numbered from 1 in the order in which they are attached. Mark each from 1 "
    "(worst) to 10 (best) for four things. accuracy: it shows what was asked for. preservation: what was not to change "
    "is as before. quality: it is sharp and free of artefacts. realism: what it shows could be so. Compare them, and "
    'answer with JSON alone: [{{"edit": 1, "accuracy": 7, "preservation": 7, "quality": 7, "realism": 7}}, ...].'
)
AGAIN = "That could not be read: {error}. Answer with the JSON list alone, one entry for each of the {count} edits."


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side says: `role` is "user" or "assistant"."""

    role: str
    text: str
    images: Sequence[Image] = ()


class Chat(Protocol):
    """A multimodal model behind whatever service or library: it answers a conversation that ends with a user's turn."""

    def __call__(self, turns: Sequence[Turn]) -> str:
        """The model's next words."""


@dataclass(frozen=True)
class Opinion:
    """Marks of one edit: mean and standard deviation over repeats, of each factor and of "total"."""

    mean: Mapping[str, float]
    deviation: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class ChatJudge:
    """S = 0.4 accuracy + 0.3 preservation + 0.2 quality + 0.1 realism, each marked from 1 to 10 by a multimodal model.

    In a conversation of its own for each repeat the model describes the picture and the edit, then sees all
    candidates side by side, numbered in an order drawn for this repeat and without names. What cannot be read is asked
    for again.

    Args:
        chat: the model.
        repeats: conversations.
        retries: how often an answer that cannot be read is asked for again.
        seed: of the orders.

    Raises:
        Refused: the model does not give marks that can be read.

    Example:
        >>> judge = ChatJudge(chat, repeats=3)
        >>> judge(case, {"SDEdit": first, "DirectInversion": second})["SDEdit"].mean["total"]

    Reference: Huang et al., Diffusion Model-Based Image Editing: A Survey, 2402.17525.

    Differs from the paper: the weighted sum is computed here and not asked of the model, and marks come as JSON.
    """

    chat: Chat
    repeats: int = 3
    retries: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.retries < 0:
            raise BadInput(
                f"repeats={self.repeats}, retries={self.retries}: repeat at least once, retry 0 times or more"
            )

    def __call__(self, case: EditCase, candidates: Mapping[str, Tensor]) -> dict[str, Opinion]:
        """Opinions on candidates, name -> picture (3, H, W) in [-1, 1], of one case."""
        if not candidates:
            raise BadInput("candidates: none; give one edit or more")
        found: dict[str, list[Mapping[str, float]]] = {name: [] for name in candidates}
        for repeat in range(self.repeats):
            order = sorted(candidates)
            random.Random(f"{self.seed}/{case.name}/{repeat}").shuffle(order)
            for name, marks in zip(order, self._ask(case, [candidates[name] for name in order]), strict=True):
                found[name].append(marks)
        return {name: _opinion(marks) for name, marks in found.items()}

    def _ask(self, case: EditCase, edits: Sequence[Tensor]) -> list[Mapping[str, float]]:
        what = case.instruction.rstrip(".") or f"from {case.source!r} to {case.target!r}"
        turns = [Turn("user", DESCRIBE.format(what=what), to_pil(case.image[None]))]
        turns.append(Turn("assistant", self.chat(turns)))
        turns.append(Turn("user", MARK.format(count=len(edits)), [to_pil(edit[None])[0] for edit in edits]))
        for _ in range(self.retries + 1):
            answer = self.chat(turns)
            try:
                return read_marks(answer, len(edits))
            except ValueError as error:
                reason = error
                turns += [Turn("assistant", answer), Turn("user", AGAIN.format(error=error, count=len(edits)))]
        raise Refused(
            f"chat: gave no marks in {self.retries + 1} answers ({reason}); use another model, or more retries"
        )


def read_marks(answer: str, count: int) -> list[Mapping[str, float]]:
    """Marks of edits 1 to `count` from an answer that holds a JSON list somewhere.

    Raises:
        ValueError: no list, an edit without marks, or a mark that is no number from 1 to 10.
    """
    start, end = answer.find("["), answer.rfind("]")
    if not 0 <= start < end:
        raise ValueError("there is no JSON list")
    entries: Any = json.loads(answer[start : end + 1])
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("the list must hold one object for each edit")
    numbers = [str(entry.get("edit")) for entry in entries]
    wanted = [str(k + 1) for k in range(count)]
    if sorted(numbers) != sorted(wanted):
        raise ValueError(f"edits are numbered {', '.join(numbers)} and not 1 to {count}")
    table = dict(zip(numbers, entries, strict=True))
    return [{factor: _mark(table[k], factor) for factor in FACTORS} for k in wanted]


def _mark(entry: Mapping[str, Any], factor: str) -> float:
    mark = entry.get(factor)
    if isinstance(mark, bool) or not isinstance(mark, (int, float)) or not LOW <= mark <= HIGH:
        raise ValueError(f"{factor} of edit {entry['edit']} is {mark!r} and no number from {LOW:g} to {HIGH:g}")
    return float(mark)


def _opinion(marks: Sequence[Mapping[str, float]]) -> Opinion:
    totals = [sum(weight * m[factor] for factor, weight in FACTORS.items()) for m in marks]
    columns = {**{factor: [m[factor] for m in marks] for factor in FACTORS}, "total": totals}
    return Opinion(
        {name: statistics.fmean(values) for name, values in columns.items()},
        {name: statistics.pstdev(values) for name, values in columns.items()},
    )
