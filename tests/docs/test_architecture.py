"""docs/architecture.md: its blocks run, and the files, classes and tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
FOLDERS = (ROOT / "src" / "suffuse", ROOT / "tests")
NAMED = sorted(set(re.findall(r"`([a-z][\w/]*\.py)(?:::(\w+))?`", TEXT)))


def test_blocks_run(ran):
    assert ran("architecture.md").rest.nfe.tolist() == [2, 2]


@pytest.mark.parametrize(("file", "name"), NAMED, ids="::".join)
def test_what_is_named_is_there(file, name):
    found = [folder / file for folder in FOLDERS if (folder / file).exists()]
    later = file in ("core/peers.py", "core/operator.py", "core/field.py")
    assert len(found) == (not later), f"{file} is {'there already' if later else 'not there'}"
    if name:
        assert re.search(rf"^(def|class) {name}\b|^{name}\b", found[0].read_text("utf-8"), re.MULTILINE), name


def test_every_contract_has_its_row():
    rows = re.findall(r"^\| ([RD]\d+) \|", TEXT, re.MULTILINE)
    assert rows == [f"R{k}" for k in range(1, 14)] + [f"D{k}" for k in range(1, 17)]


def test_the_drawing_is_well_formed_and_readable_as_text():
    root = ElementTree.parse(ROOT / "docs" / "architecture.svg").getroot()
    texts = " ".join(root.itertext())
    for part in ("prompt", "Conditioner", "Cond", "Grid", "Hook", "Sampler", "Guidance", "Denoiser", "Family", "Law"):
        assert part in texts and part in TEXT
