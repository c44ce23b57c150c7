from __future__ import annotations

import json

import pytest

from suffuse.caching import planning
from suffuse.caching.stacks import Option
from suffuse.samplers import UniPC


@pytest.fixture(autouse=True)
def _one_option(monkeypatch):
    monkeypatch.setattr(planning, "options_for", lambda model: [Option("steps", {"sampler": UniPC(), "steps": 2})])


HOW = ("plan", "--model", "digits", "-n", 2, "--steps", 8, "--most", 1, "--prompts")


def test_it_says_how_far_it_is_and_keeps_the_recipe(suffuse, tmp_path):
    (tmp_path / "classes.txt").write_text("3\n7\n")
    file = tmp_path / "plan.json"
    status, shown, said = suffuse(*HOW, tmp_path / "classes.txt", "--tolerance", 9, "-o", file)
    assert status == 0 and "baseline" in shown
    assert [line.partition(":")[0] for line in said.splitlines()] == ["baseline", "sampler UniPC(), steps 2"]
    assert json.loads(file.read_text())["recipe"]["steps"] == 2


def test_where_nothing_keeps_the_error_it_says_so_in_one_line(suffuse, tmp_path):
    (tmp_path / "classes.txt").write_text("3\n7\n")
    status, _, said = suffuse(*HOW, tmp_path / "classes.txt", "--tolerance", 1e-9, "-o", tmp_path / "plan.json")
    assert status == 2 and said.splitlines()[-1].startswith("error: budget=0.4: no stack of those tried")
