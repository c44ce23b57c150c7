"""The judge that asks a multimodal model, with a fake in its place."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from suffuse.core.errors import BadInput, Refused
from suffuse.editing.chat_judge import ChatJudge, read_marks
from suffuse.editing.edit_case import EditCase
from suffuse.editing.edit_judge import FACTORS

GREY = torch.zeros(3, 4, 4)
CASE = EditCase("one", "any", GREY, "a", "b", torch.ones(4, 4, dtype=torch.bool), instruction="Make it bright.")
EDITS = {"Dusk": GREY - 0.8, "Noon": GREY, "Dawn": GREY + 0.8}


class Brightness:
    """Marks edits by their brightness, and remembers what it was shown; `spoilt` answers come first."""

    def __init__(self, spoilt=(), step=0):
        self.spoilt, self.step, self.seen, self.texts = list(spoilt), step, [], []

    def __call__(self, turns):
        assert [t.role for t in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"]
        self.texts.append(turns[-1].text)
        if len(turns) == 1:
            assert len(turns[0].images) == 1 and "Make it bright." in turns[0].text
            return "A grey picture."
        if self.spoilt:
            return self.spoilt.pop(0)
        light = [float(np.asarray(image).mean()) / 255 for image in turns[2].images]
        self.seen.append(light)
        marks = [round(1 + 8 * v) + self.step * (len(self.seen) % 2) for v in light]
        return (
            "Here you are:\n```json\n"
            + json.dumps([{"edit": k + 1, **dict.fromkeys(FACTORS, m)} for k, m in enumerate(marks)])
            + "\n```"
        )


def test_candidates_are_shuffled_and_their_marks_find_back():
    chat = Brightness()
    found = ChatJudge(chat, repeats=6)(CASE, EDITS)
    assert [found[name].mean["total"] for name in EDITS] == pytest.approx([2, 5, 8])
    assert len({tuple(light) for light in chat.seen}) > 1 and all(sorted(s) == sorted(chat.seen[0]) for s in chat.seen)
    assert not any(name in text for text in chat.texts for name in EDITS)
    again = Brightness()
    ChatJudge(again, repeats=6)(CASE, dict(reversed(EDITS.items())))
    assert again.seen == chat.seen


def test_mean_and_deviation_over_repeats():
    found = ChatJudge(Brightness(step=1), repeats=4)(CASE, EDITS)["Noon"]
    assert found.mean["accuracy"] == 5.5 and found.deviation["accuracy"] == 0.5
    assert found.mean["total"] == pytest.approx(5.5) and found.deviation["total"] == pytest.approx(0.5)


def test_what_cannot_be_read_is_asked_for_again():
    chat = Brightness(["I like the second.", '[{"edit": 1, "accuracy": 11}]'])
    assert ChatJudge(chat, repeats=1)(CASE, EDITS)["Dusk"].mean["quality"] == 2
    assert "no JSON list" in chat.texts[2] and "not 1 to 3" in chat.texts[3]
    with pytest.raises(Refused, match="in 2 answers"):
        ChatJudge(Brightness(["no"] * 9), retries=1)(CASE, EDITS)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"edit": 2, **dict.fromkeys(FACTORS, 5)}], "numbered"),
        ([{"edit": 1, **dict.fromkeys(FACTORS, 5), "realism": 0}], "realism of edit 1 is 0"),
        ([{"edit": 1, **dict.fromkeys(FACTORS, 5), "quality": "7"}], "quality of edit 1 is '7'"),
        ([{"edit": 1, **dict.fromkeys(FACTORS, True)}], "is True"),
        ([5], "one object"),
    ],
)
def test_marks_that_are_none(entries, message):
    with pytest.raises(ValueError, match=message):
        read_marks(json.dumps(entries), 1)


def test_bad_settings():
    with pytest.raises(BadInput, match="at least once"):
        ChatJudge(Brightness(), repeats=0)
    with pytest.raises(BadInput, match="none"):
        ChatJudge(Brightness())(CASE, {})
