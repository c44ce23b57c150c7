"""Surveys from the command line."""

from __future__ import annotations

import json

import torch

from suffuse.images import save_png, to_pil


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


def test_a_folder_of_pictures_and_texts(suffuse, tmp_path):
    (tmp_path / "originals").mkdir()
    grey = torch.full((3, 80, 64), 0.2)
    save_png(to_pil(grey[None])[0], tmp_path / "originals" / "a.png")
    listed = [{"img_name": "a.png", "target_text": f"a {colour} circle"} for colour in ("red", "blue", "green")]
    (tmp_path / "input_list.json").write_text(json.dumps(listed))
    how = ("--cases", tmp_path, "-n", 2, "--inversion", "SDEdit(0.5)", "--editor", "PromptToPrompt()", "--steps", 2)
    status, printed, said = suffuse("evaluate", "editing", *how, "--json")
    assert status == 0, said
    board = json.loads(printed)
    assert [c["target"] for c in board["cases"]] == ["a red circle", "a blue circle"]
    ran = [row for row in board["rows"] if not row["refused"]]
    assert len(ran) == 3 and all("structure distance" in row["figures"] for row in ran)
    assert not any("score" in row["figures"] or "PSNR outside" in row["figures"] for row in ran)
    status, _, said = suffuse("evaluate", "editing", "--cases", tmp_path, "--task", "add")
    assert status == 2 and "TEdBench has no tasks" in said
