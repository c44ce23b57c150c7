"""Editing from the command line, and the recipe that makes an edit again."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from suffuse.images import recipe_of


@pytest.fixture
def circle(suffuse, tmp_path):
    file = tmp_path / "circle.png"
    assert suffuse("generate", "a red circle", "--steps", 2, "-o", file)[0] == 0
    return file


def test_an_edit_is_made_again(suffuse, circle):
    edit = ("edit", circle, "--from", "a red circle", "--to", "a blue circle", "--steps", 3)
    status, printed, said = suffuse(*edit, "--editor", "PromptToPrompt(self_replace=0.4)", "--json")
    assert status == 0, said
    found = json.loads(printed)
    file = circle.with_name("circle-edit.png")
    assert found["file"] == str(file) and Image.open(file).size == (64, 64) and found["evaluations"] == 3 * 4
    recipe = recipe_of(file)
    assert recipe["editor"] == ["PromptToPrompt(self_replace=0.4)"] and recipe["inversion"] == "DirectInversion()"
    status, printed, said = suffuse("replay", file, "--image", circle, "--json")
    assert status == 0 and json.loads(printed)[0]["largest difference of 255"] <= 1, said
    assert suffuse("replay", file)[0] == 2  # without the picture that it is an edit of


def test_what_cannot_be_edited_is_one_line(suffuse, circle):
    edit = ("edit", circle, "--from", "a red circle", "--to", "a blue circle", "--steps", 2)
    for more, message in (
        (("--editor", "PromptToPromp()"), "did you mean PromptToPrompt"),
        (("--inversion", "CFG(3)"), "CFG"),
        (("--drag", "1,2"), "give x0,y0:x1,y1"),
        (("--drag", "1,2:3,4", "--editor", "MasaCtrl()"), "makes use of it"),
        (("--editor", "DDIM()"), "DDIM"),
    ):
        status, _, said = suffuse(*edit, *more)
        assert status == 2 and said.count("\n") == 1 and message in said
