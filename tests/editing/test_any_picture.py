"""Pictures as users have them go through an edit: any size, rotation, depth and number of channels."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from suffuse import load
from suffuse.core.errors import BadInput
from suffuse.editing import DDIMInversion

model = cache(load)
RUN = dict(inversion=DDIMInversion(), editor=(), steps=1, guidance=1.0)
DEEP = np.linspace(0, 65535, 66 * 61).reshape(66, 61).astype(np.uint16)


def rotated(folder):
    picture = Image.new("RGB", (60, 33), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "a.jpg", exif=exif)
    return folder / "a.jpg"


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        (Image.new("RGB", (61, 66), "red"), (60, 64)),
        (Image.new("RGBA", (40, 29), (255, 0, 0, 128)), (40, 28)),
        (Image.new("L", (37, 30), 200), (36, 32)),
        (Image.fromarray(DEEP), (60, 64)),
        (rotated, (32, 60)),
    ],
)
def test_it_is_edited_at_the_nearest_size(tmp_path, picture, size):
    given = picture(tmp_path) if callable(picture) else picture
    edits = model("shapes").edit(given, "a red circle", "a blue circle", **RUN)
    assert edits.images[0].size == size


def test_a_tensor_of_another_size_is_refused():
    with pytest.raises(BadInput, match="resize it, or give a PIL image"):
        model("shapes").edit(torch.zeros(1, 3, 61, 64), "a red circle", "a blue circle", **RUN)
