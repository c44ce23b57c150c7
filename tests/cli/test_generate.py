"""Pictures from the command line: prompts as values, and recipes that rebuild them."""

from __future__ import annotations

import json
import re

import pytest
import torch

from suffuse import load
from suffuse.adapters import LoRA, save_adapters
from suffuse.images import recipe_of


def test_a_prompt_value_is_replayed(suffuse, tmp_path):
    said = "Switch(Weighted('a (red:1.5) circle'), 'a blue circle', when=0.5)"
    file = tmp_path / "a.png"
    status, _, said_wrong = suffuse("generate", said, "--negative", "Alternate(('a', 'b'))", "--steps", 2, "-o", file)
    assert status == 0, said_wrong
    recipe = recipe_of(file)
    assert recipe["prompt"]["expression"].startswith("Switch(before=Weighted(") and "lost" not in recipe
    status, printed, _ = suffuse("replay", file, "-o", tmp_path / "b.png", "--json")
    assert status == 0 and json.loads(printed)[0]["largest difference of 255"] == 0


def test_a_plain_prompt_keeps_its_brackets(suffuse, tmp_path):
    file = tmp_path / "a.png"
    assert suffuse("generate", "a (red) circle", "--steps", 1, "-o", file)[0] == 0
    assert recipe_of(file)["prompt"] == "a (red) circle"


def test_where_it_cannot_write_it_says_so_before_it_starts(suffuse, tmp_path):
    for file, why in (("a.jpg", "give .*a.png"), ("a.png", "one file for 2")):
        status, _, said = suffuse("generate", "a red circle", "--model", "nowhere", "-n", 2, "-o", tmp_path / file)
        assert status == 2 and re.search(why, said) and not list(tmp_path.iterdir())


def test_too_large_a_picture_is_one_line(suffuse, tmp_path):
    status, _, said = suffuse("generate", "3", "--model", "digits", "--height", 2**30, "--width", 2**30)
    assert status == 2 and said.startswith("error: not enough memory") and said.count("\n") == 1


def test_a_mistake_in_a_prompt_value_is_one_line(suffuse, tmp_path):
    status, _, said = suffuse("generate", "Weighted('a (red')", "-o", tmp_path / "a.png")
    assert status == 2 and said.count("\n") == 1 and "is not closed" in said
    assert not list(tmp_path.iterdir())


@pytest.fixture
def style(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = LoRA(2).on(load("shapes").denoiser)
        for p in adapter.parameters():
            torch.nn.init.normal_(p, 0, 0.05)
    return save_adapters(tmp_path / "style.safetensors", adapter)


def test_files_of_adapters_are_part_of_the_model_that_a_recipe_names(suffuse, tmp_path, style):
    file = tmp_path / "a.png"
    status, printed, _ = suffuse("generate", "a red circle", "--lora", f"0.5*{style}", "--steps", 1, "-o", file)
    recipe = recipe_of(file)
    assert status == 0 and recipe["model"] == f"shapes + 0.5*{style}" and not {"lost", "patches"} & recipe.keys()
    assert recipe["fingerprint"] != load("shapes").fingerprint
    status, printed, _ = suffuse("replay", file, "-o", tmp_path / "b.png", "--json")
    assert status == 0 and json.loads(printed)[0]["largest difference of 255"] == 0
    patched = load(recipe["model"]).with_(LoRA(2).on(load("shapes").denoiser))
    assert len(patched.changes) == 2 and len(patched.added) == 1


@pytest.mark.parametrize("wrong, why", [("0.5.1*{}", "no strength"), ("{}.gone", "is missing")])
def test_a_wrong_file_of_adapters_is_one_line(suffuse, tmp_path, style, wrong, why):
    status, _, said = suffuse("generate", "a", "--lora", wrong.format(style), "-o", tmp_path / "a.png")
    assert status == 2 and said.count("\n") == 1 and why in said


def test_a_plan_is_run_with_its_mode_of_computation(suffuse, tmp_path):
    plan = {"recipe": {"sampler": "UniPC()", "steps": 2, "patches": []}, "modes": {"mode": {"dtype": "bfloat16"}}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    file = tmp_path / "a.png"
    status, _, _ = suffuse("generate", "3", "--model", "digits", "--plan", tmp_path / "plan.json", "-o", file)
    recipe = recipe_of(file)
    assert status == 0 and (recipe["sampler"], recipe["steps"]) == ("UniPC()", 2)
    assert recipe["mode"]["dtype"] == "bfloat16"
