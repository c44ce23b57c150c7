"""`suffuse search seeds`."""

from __future__ import annotations

import json

import pytest

from suffuse.cli import main
from suffuse.noise import SeedBank


def test_seeds_are_ranked_and_kept(capsys, monkeypatch, tmp_path):
    path = tmp_path / "seeds.json"
    words = ["suffuse", "search", "seeds", "a red circle", "-n", "3", "--keep", "2", "--steps", "2", "--guidance", "1"]
    monkeypatch.setattr("sys.argv", [*words, "-o", str(path), "--json"])
    assert not main()
    rows = json.loads(capsys.readouterr().out)
    kept = [row["seed"] for row in rows if row["kept"]]
    bank = SeedBank.load(path)
    assert list(bank.seeds) == kept == [row["seed"] for row in rows][:2] and bank.made_for.model
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


@pytest.mark.parametrize(
    ("more", "said"), [(["--scorer", "DDIM()"], "scores no pictures"), (["-n", "2", "--keep", "5"], "keep=5: only 2")]
)
def test_what_cannot_be_searched_is_named(capsys, monkeypatch, more, said):
    monkeypatch.setattr("sys.argv", ["suffuse", "search", "seeds", *more])
    assert main() == 2 and said in capsys.readouterr().err
