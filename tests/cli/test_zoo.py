"""Bundled models from the command line: hashes, figures, and building one in pieces."""

from __future__ import annotations

import json

import pytest

from suffuse.cli import zoo
from suffuse.core.files import sha256, write_json
from suffuse.core.metric import Estimate
from suffuse.zoo.recipes import recipe
from suffuse.zoo.recipes.building import Figure


def complaint(found):
    status, printed, said = found
    assert status == 2 and printed == "" and said.count("\n") == 1
    return said


def test_files_are_listed_and_verified(suffuse, monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "MODELS", tmp_path)
    model = tmp_path / "toy"
    (model / "unet").mkdir(parents=True)
    (model / "unet" / "weights").write_bytes(b"\0" * 10_000)
    (model / "config").write_text("{}")
    files = {str(p.relative_to(model)): sha256(p) for p in model.rglob("*") if p.is_file()}
    write_json(model / "card.json", {"summary": "A toy.", "files": files, "measured": {"colour": 0.98}})

    row = json.loads(suffuse("zoo", "list", "--json")[1])[0]
    assert row == {"name": "toy", "summary": "A toy.", "megabytes": 0.01, "measured": ["colour 0.98"]}
    status, printed, _ = suffuse("zoo", "verify", "toy")
    assert status == 0 and printed.count("as built") == 2

    (model / "unet" / "weights").write_bytes(b"\1")
    (model / "config").rename(model / "other")
    status, printed, _ = suffuse("zoo", "verify", "--json")
    assert status == 1
    assert {r["file"]: r["state"] for r in json.loads(printed)} == {
        "config": "missing",
        "other": "not in the card",
        "unet/weights": "altered",
    }
    assert "no bundled model 'tox'; did you mean toy" in complaint(suffuse("zoo", "verify", "tox"))
    (model / "card.json").write_text("{}")
    assert "toy/card.json has no summary" in complaint(suffuse("zoo", "list"))


def test_a_build_in_pieces_is_the_build_at_once(suffuse, tmp_path):
    """Stopped after its first step and resumed, then measured; the weights are those of an unbroken run to the bit."""
    build = ("zoo", "build", "digits", "--steps", 3)
    status, _, said = suffuse(*build, "--out", tmp_path / "a", "--minutes", 0)
    assert status == 1 and "stopped at step 1 of 3 of digits" in said
    status, printed, _ = suffuse(*build, "--out", tmp_path / "a", "-n", 10, "--json")
    assert status == 0
    row = json.loads(printed)[0]
    assert row["steps"] == 3 and row["class as asked, guidance 2"].endswith("n = 10")
    assert suffuse(*build, "--out", tmp_path / "b", "-n", 0)[0] == 0
    cards = [json.loads((tmp_path / k / "digits" / "model" / "card.json").read_text()) for k in "ab"]
    assert cards[0]["files"] == cards[1]["files"] and len(cards[0]["files"]) == 4
    assert cards[1]["measured"] == {} and cards[0]["defaults"] == {"steps": 25, "guidance": "CFG(2)"}


def test_what_cannot_be_built_is_one_line(suffuse, tmp_path):
    assert "no recipe 'shape'; did you mean shapes" in complaint(suffuse("zoo", "build", "shape", "--out", tmp_path))
    assert "device='disk'" in complaint(suffuse("zoo", "build", "digits", "--device", "disk", "--out", tmp_path))
    assert not list(tmp_path.iterdir())


def test_figures_are_compared_with_the_card(suffuse, monkeypatch):
    """The bundled digits model is as good as its card says, as far as 40 pictures tell; another one is not."""
    status, printed, _ = suffuse("zoo", "verify", "digits", "--measure", "-n", 40, "--json")
    assert status == 0 and {row["state"] for row in json.loads(printed)} == {"agrees"}
    poor = {name: Figure.share(Estimate(0.1, (0.05, 0.2), 40)) for name in ("class as asked, guidance 1", "new")}
    monkeypatch.setattr(type(recipe("digits")), "measure", property(lambda self: lambda folder, most: poor))
    status, printed, _ = suffuse("zoo", "verify", "digits", "--measure", "--json")
    assert status == 1
    states = {row["figure"]: row["state"] for row in json.loads(printed)}
    assert states["class as asked, guidance 1"] == "differs" and states["new"] == "not in the card"
    assert "give --measure, too" in complaint(suffuse("zoo", "verify", "-n", 3))


def test_figures_read_what_they_write():
    for figure in (Figure.share(Estimate(0.961, (0.93, 0.979), 205)), Figure(Estimate(36.9, (36.7, 37.1), 512), "dB")):
        assert str(Figure.read(str(figure))) == str(figure)
    old = Figure.read("36.9 dB")
    assert old.agrees(Figure(Estimate(36.8, (36.5, 37.0), 64), "dB")) and not old.agrees(
        Figure(Estimate(36.0, (35.5, 36.5), 64), "dB")
    )
    with pytest.raises(ValueError, match="no figure"):
        Figure.read("good")
