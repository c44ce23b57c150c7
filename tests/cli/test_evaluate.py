"""Surveys from the command line."""

from __future__ import annotations

import json


def test_a_survey_is_printed_and_kept(suffuse, tmp_path):
    files = tmp_path / "board.json", tmp_path / "board.html"
    status, printed, said = suffuse(
        "evaluate", "editing", "-n", 2, "--task", "replace", "--inversion", "SDEdit(0.5)", "--editor", "Reweight('a')",
        "--steps", 2, "-o", files[0], "--sheet", files[1], "--json",
    )  # fmt: skip
    assert status == 0, said
    board = json.loads(printed)
    assert json.loads(files[0].read_text()) == board and files[1].stat().st_size > 5000
    assert [r["editor"] for r in board["rows"] if r["inversion"]] and {"score by task", "refused"} <= board["rows"][
        0
    ].keys()


def test_unknown_tasks_and_methods_are_one_line(suffuse):
    for more, message in (
        (("--task", "replac"), "did you mean replace"),
        (("--inversion", "DDIMInversio()"), "did you"),
    ):
        status, _, said = suffuse("evaluate", "editing", "-n", 2, *more)
        assert status == 2 and message in said and said.count("\n") == 1
