"""Folders of two domains."""

from __future__ import annotations

import pytest
from PIL import Image

from suffuse.core.errors import BadInput, Damaged
from suffuse.editing import PairedDomains


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (255, 0, 0)).save(path)


def test_pictures_with_their_class(tmp_path):
    for name in ("dog/testA/2.png", "dog/testA/1.png", "dog/testB/1.png", "polar_bear/testA/x.png", "dog/trainA/9.png"):
        picture(tmp_path / name)
    (tmp_path / "dog/testA/notes.txt").write_text("no picture")
    found = PairedDomains(str(tmp_path))
    assert [(s.path.name, s.name) for s in found] == [("1.png", "dog"), ("2.png", "dog"), ("x.png", "polar bear")]
    assert found[0].image.shape == (3, 6, 8) and found[0].image[0].min() == 1.0
    assert [found.partner(s) is not None for s in found] == [True, False, False]
    assert len(found.targets("dog")) == 1 and len(PairedDomains(str(tmp_path), "train")) == 1


def test_folders_without_pictures(tmp_path):
    with pytest.raises(Damaged, match="no folder"):
        len(PairedDomains(str(tmp_path / "absent")))
    with pytest.raises(BadInput, match="no pictures in"):
        len(PairedDomains(str(tmp_path)))
