"""`suffuse search seeds`."""

from __future__ import annotations

import json

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


def test_what_scores_nothing_is_named(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["suffuse", "search", "seeds", "--scorer", "DDIM()"])
    assert main() == 2 and "scores no pictures" in capsys.readouterr().err
