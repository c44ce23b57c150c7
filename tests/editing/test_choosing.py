"""Which methods an instruction calls for."""

from __future__ import annotations

import pytest

from suffuse.core.errors import BadInput, Refused
from suffuse.editing import EditEval, choose
from suffuse.editing.choosing import WAYS, WORDS
from suffuse.editing.edit_eval import TASKS


def names(choice):
    return [type(part).__name__ for part in (choice.inversion, *choice.editor)]


def test_the_task_of_every_instruction_of_the_set_is_read():
    for case in EditEval(3):
        assert choose(case.instruction).task == case.kind, case.instruction


def test_every_task_has_a_way_without_a_mask():
    assert set(WORDS) == set(TASKS) == {task for way in WAYS for task in way.tasks}
    for words in WORDS.values():
        assert choose(f"Please {words[0]} it.").why


def test_inputs_decide():
    told = "Replace the red circle with a blue circle."
    assert names(choose(told)) == ["DirectInversion", "PromptToPrompt", "LocalBlend"]
    assert names(choose(told, mask=True)) == ["DirectInversion", "KeepOutside", "PromptToPrompt"]
    assert "needs a mask" in choose(told).why[1] and "'replace'" in choose(told).why[0]
    assert names(choose("Move the red circle below the star.")) == ["DirectInversion", "MasaCtrl"]
    assert "is not used" in choose("Move the red circle below the star.", mask=True).why[1]
    assert "prompt" in choose(told).citations.lower()


def test_what_cannot_be_told():
    with pytest.raises(BadInput, match="no word of it"):
        choose("Hello there.")
    with pytest.raises(Refused, match="DragDiffusion"):
        choose("Move it.", points=True)
