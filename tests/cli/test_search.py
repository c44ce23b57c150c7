"""What is found on the command line is used on the command line."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from suffuse import load_method
from suffuse.caching import AutoDiffusion
from suffuse.samplers import OLSS


@pytest.fixture
def reference(tmp_path):
    folder = tmp_path / "reference"
    folder.mkdir()
    for k in range(4):
        Image.new("RGB", (64, 64), (60 * k, 10, 20)).save(folder / f"{k}.png")
    return folder


def test_a_schedule_is_searched_and_used(suffuse, tmp_path, reference):
    policy, picture = tmp_path / "policy.safetensors", tmp_path / "two.png"
    few = ("--rounds", "2", "--population", "2", "-n", "3", "--steps", "2", "--max-prune", "0.2")
    status, printed, said = suffuse(
        "search",
        "schedule",
        "--model",
        "digits",
        "--reference",
        reference,
        "--prompt",
        "2",
        *few,
        "-o",
        policy,
        "--json",
    )
    assert status == 0, said
    found, row = load_method(policy), json.loads(printed)
    assert isinstance(found, AutoDiffusion) and row["times"] == list(found.made_for.times)
    assert row["distance on fresh noise"] > 0
    use = ("generate", "2", "--model", "digits", "--spacing", f"@{policy}", "--patch", f"@{policy}", "-o", picture)
    status, printed, said = suffuse(*use, "--json")
    assert status == 0, said
    assert Image.open(picture).size == (8, 8)


def test_a_solver_is_fitted_and_used_with_its_guidance_alone(suffuse, tmp_path):
    file, picture = tmp_path / "olss.safetensors", tmp_path / "two.png"
    fit = ("search", "solver", "--model", "digits", "--prompt", "2", "--prompt", "7", "-n", "2", "--fine", "6")
    status, _, said = suffuse(*fit, "--steps", "2", "--guidance", "2", "-o", file)
    assert status == 0, said
    assert isinstance(load_method(file), OLSS)
    use = ("generate", "2", "--model", "digits", "--sampler", f"@{file}", "-o", picture)
    status, _, said = suffuse(*use, "--guidance", "2")
    assert status == 0, said
    status, _, said = suffuse(*use, "--guidance", "3")
    assert status == 2 and "was fitted for guidance" in said


def test_a_folder_without_pictures_is_refused(suffuse, tmp_path):
    status, _, said = suffuse("search", "schedule", "--model", "digits", "--reference", tmp_path)
    assert status == 2 and "give a folder" in said
