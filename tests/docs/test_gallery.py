"""What the gallery shows."""

from __future__ import annotations

from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from PIL import Image

from suffuse.core.environment import CHECKOUT
from suffuse.core.errors import BadInput
from suffuse.core.expression import parse
from suffuse.docs import gallery


def test_every_sheet_is_drawn_and_says_what_can_be_run():
    for sheet in gallery.sheets(CHECKOUT / "docs"):
        assert (CHECKOUT / "docs" / "gallery" / f"{sheet.method}.png").exists(), sheet.method
        assert callable(resolve_name(sheet.task)) and bool(sheet.rows) != bool(sheet.prompts)
        for given in (*sheet.rows, *sheet.arms.values()):
            said = [given[k] for k in gallery.PLUGINS if k in given]
            said += [text for k in gallery.LISTS for text in given.get(k, ())]
            for text in said:
                file, _, rest = text[1:].partition(" | ") if text[0] == "@" else ("", "", text)
                assert not file or (CHECKOUT / "docs/gallery" / file).exists()
                assert not rest or parse(rest) is not None


def test_a_sheet_of_another_task_shows_what_its_rows_start_from(tmp_path):
    row = {"first": "a red circle on a grey background", "last": "a blue square on a grey background"}
    arms = {"half": {"how": "Slerp()", "shares": [0.5], "steps": 2}}
    page = gallery.Sheet("Slerp", "", arms, task="suffuse.noise:interpolate", rows=[row]).draw(tmp_path)
    assert page.size[0] == 3 * (gallery.SIDE + gallery.GAP) + gallery.GAP
    top = gallery.LINE + gallery.GAP + gallery.LINE
    shown = page.crop((gallery.GAP, top, gallery.GAP + gallery.SIDE, top + gallery.SIDE))
    red, _, blue = shown.convert("RGB").getextrema()
    assert red[1] > 200 and blue[0] < 100


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


def test_a_region_is_a_disc_around_the_first_object():
    caption = "a red circle on a grey background"
    given = gallery._arguments({"image": caption, "region": caption}, CHECKOUT)
    inside = given["region"][0, 0] > 0
    pixels = torch.from_numpy(np.array(given["image"])).float()
    red = pixels[..., 0] - pixels[..., 1] > 60
    assert red.any() and inside[red].all() and inside.sum() < 2 * red.sum()
