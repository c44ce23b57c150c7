"""Larger pictures from the command line, and the recipe that makes them again."""

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


def test_a_picture_is_enlarged_and_made_again(suffuse, circle):
    how = ("--prompt", "a red circle", "--factor", 1.5, "--steps", 4, "--method", "DiffuseHigh(latent=True)")
    status, printed, said = suffuse("upscale", circle, *how, "--json")
    assert status == 0, said
    found = json.loads(printed)
    file = circle.with_name("circle-large.png")
    assert found["file"] == str(file) and Image.open(file).size == (96, 96) and found["evaluations"] == 2
    assert recipe_of(file)["upscale"] == "DiffuseHigh(latent=True)"
    status, printed, said = suffuse("replay", file, "--image", circle, "--json")
    assert status == 0 and json.loads(printed)[0]["largest difference of 255"] <= 1, said
    assert suffuse("replay", file)[0] == 2  # without the picture that it was made from


def test_pictures_larger_than_the_models_own(suffuse, tmp_path):
    file = tmp_path / "wide.png"
    size = ("--height", 64, "--width", 96, "--steps", 2)
    status, _, said = suffuse("generate", "a red circle", *size, "--upscale", "DemoFusion()", "-o", file)
    assert status == 0 and Image.open(file).size == (96, 64), said
    status, printed, said = suffuse("replay", file, "--json")
    assert status == 0 and json.loads(printed)[0]["largest difference of 255"] <= 1, said
    views = ("--guidance", "MultiDiffusion() | CFG(3)", "-o", tmp_path / "views.png")
    assert suffuse("generate", "a red circle", *size, *views)[0] == 0


def test_what_cannot_be_enlarged_is_one_line(suffuse, circle):
    for more, message in (
        (("--method", "DiffuseHig()"), "did you mean DiffuseHigh"),
        (("--method", "CFG(3)"), "no way to larger pictures"),
        (("--factor", 0), "above 1"),
        (("--width", 64, "--height", 64), "has this size already"),
        (("--width", 32, "--height", 128), "scale it down"),
        (("--width", 96), "give both"),
    ):
        status, _, said = suffuse("upscale", circle, "--steps", 2, *more)
        assert status == 2 and message in said, said
