"""The survey of inversions and editors, its leaderboard and its sheet."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest
import torch
from PIL import Image

from suffuse import load
from suffuse.core.errors import BadInput
from suffuse.editing import BDIAInversion, DirectInversion, EditEval, PromptToPrompt, leaderboard
from suffuse.editing.photographs import middle, photographs, reconstructions
from suffuse.editing.survey import Known, Survey, editors, inverters

STEPS = 2


@cache
def survey():
    return Survey(load("shapes"), EditEval(1, ("replace", "remove"))[:], steps=STEPS)


@cache
def rows():
    inversions = Known((DirectInversion(), BDIAInversion()), {})
    return survey().rows(inversions, Known((PromptToPrompt(),), {"Reweight": "no word"}))


def test_what_is_registered_is_made_at_its_defaults_or_named():
    assert DirectInversion() in inverters().made and "operation" in inverters().refused["Displaced"]
    assert PromptToPrompt() in editors().made and "word" in editors().refused["Reweight"]
    assert not set(map(type, editors().made)) & set(map(type, inverters().made))


def test_every_pair_is_measured_or_refused_with_its_reason():
    ran = {(r.inversion, r.editor): r for r in rows() if not r.refused}
    assert list(ran) == [("", "MaskedBlend()"), ("DirectInversion()", ""), ("DirectInversion()", "PromptToPrompt()")]
    refused = [r for r in rows() if r.refused]
    assert len(refused) == 3 and all("BDIA" in r.refused for r in refused[:2]) and refused[2].editor == "Reweight"
    for row in ran.values():
        assert {"score", "target accuracy", "structure distance", "PSNR outside"} <= row.figures.keys()
        assert set(row.tasks) == {"replace", "remove"} and 1 <= row.figures["score"].mean <= 10
        assert sum(row.tasks.values()) / 2 == pytest.approx(row.figures["score"].mean)


def test_costs_hold_the_inversion_whether_its_code_is_new_or_not():
    own, with_editor = (next(r for r in rows() if (r.inversion, r.editor) == ("DirectInversion()", e))
                        for e in ("", "PromptToPrompt()"))  # fmt: skip
    assert own.evaluations == with_editor.evaluations == STEPS + 4 * STEPS
    assert own.seconds > 0 and with_editor.seconds > 0


def test_a_code_that_is_kept_gives_the_edit_that_a_new_one_gives():
    cases = survey().cases
    fresh = survey().model.edit(
        torch.stack([c.image for c in cases]), [c.source for c in cases], [c.target for c in cases],
        inversion=DirectInversion(), editor=PromptToPrompt(), steps=STEPS,
    )  # fmt: skip
    kept = next(r for r in rows() if r.editor == "PromptToPrompt()")
    torch.testing.assert_close(kept.images, survey().model.decode(fresh.decoded.target).clamp(-1, 1))


def test_the_leaderboard_ranks_and_can_be_written(tmp_path):
    board = leaderboard.record(survey(), rows())
    scores = [row["figures"]["score"]["mean"] for row in board["rows"] if not row["refused"]]
    assert (
        scores == sorted(scores, reverse=True)
        and [bool(r["refused"]) for r in board["rows"]] == [False] * 3 + [True] * 3
    )
    assert json.loads(leaderboard.save(board, tmp_path / "a.json").read_text()) == board
    page = leaderboard.sheet(survey(), rows(), board, tmp_path / "a.html").read_text()
    assert page.count("data:image/png;base64,") == 2 + 3 and not re.search(r"https?://|src=\"(?!data:)", page)
    assert "Replace the" in page and "BDIAInversion" in page


def test_one_case_has_no_interval():
    with pytest.raises(BadInput, match="two or more"):
        Survey(survey().model, survey().cases[:1])


def test_photographs_come_in_the_proportions_of_the_model():
    assert middle(Image.new("RGB", (30, 20)), (64, 64)).size == (20, 20)
    assert middle(Image.new("RGB", (30, 40)), (32, 64)).size == (30, 15)
    pictures = photographs((64, 64))
    assert pictures.shape == (4, 3, 64, 64)
    codec, refused = reconstructions(survey().model, pictures, [BDIAInversion()], steps=STEPS)
    assert codec["figures"]["PSNR"]["mean"] > 10 and "BDIA" in refused["refused"]
