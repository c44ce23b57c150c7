"""What the gallery shows."""

from __future__ import annotations

import pytest
from PIL import Image

from suffuse.core.environment import CHECKOUT
from suffuse.core.errors import BadInput
from suffuse.core.expression import parse
from suffuse.docs import gallery


def test_every_sheet_is_drawn_and_says_what_can_be_run():
    for sheet in gallery.sheets(CHECKOUT / "docs"):
        assert (CHECKOUT / "docs" / "gallery" / f"{sheet.method}.png").exists(), sheet.method
        for arm in sheet.arms.values():
            said = [arm[k] for k in gallery.PLUGINS if k in arm] + [p for k in gallery.LISTS for p in arm.get(k, ())]
            for text in said:
                assert (CHECKOUT / "docs/gallery" / text[1:]).exists() if text[0] == "@" else parse(text) is not None


def test_pictures_stand_under_their_labels():
    red, blue = (Image.new("RGB", (4, 4), c) for c in ("red", "blue"))
    page = gallery.arranged(["a", "b"], ["first", "second"], [[red, red], [blue, blue]])
    left, top = gallery.GAP + 5, 2 * gallery.LINE + gallery.GAP + 5
    row, column = gallery.SIDE + gallery.LINE + gallery.GAP, gallery.SIDE + gallery.GAP
    for x, y, colour in ((0, 0, (255, 0, 0)), (column, row, (0, 0, 255))):
        assert page.getpixel((left + x, top + y)) == colour


def test_an_unknown_sheet_is_named():
    with pytest.raises(BadInput, match="no sheet shows 'CGF'.*CFG"):
        list(gallery.draw(CHECKOUT / "docs", ["CGF"]))
