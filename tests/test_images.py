"""Pictures in and out, and the recipe in a PNG file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from suffuse.core.errors import BadInput, Damaged
from suffuse.images import mask_tensor, recipe_of, save_png, to_pil, to_tensor, writable

BYTES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3) * 4
PICTURE = Image.fromarray(BYTES)


def test_there_and_back() -> None:
    pixels = to_tensor(PICTURE)
    assert pixels.shape == (1, 3, 5, 4) and pixels.min() >= -1 and pixels.max() <= 1
    assert np.array_equal(np.array(to_pil(pixels)[0]), BYTES)
    assert torch.allclose(to_tensor(pixels), pixels, atol=1e-6)
    assert torch.equal(to_tensor(BYTES), pixels)
    assert to_tensor([PICTURE, PICTURE]).shape == (2, 3, 5, 4)


def test_values_outside_are_clipped() -> None:
    pixels = torch.tensor([-3.0, 0.0, 3.0])[None, :, None, None].expand(1, 3, 1, 1)
    assert np.array(to_pil(pixels)[0]).tolist() == [[[0, 128, 255]]]


def test_modes() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert to_tensor(clear).eq(1.0).all(), "what is transparent shows white"
    assert to_tensor(Image.new("L", (2, 2), 255)).eq(1.0).all()
    assert to_tensor(Image.new("P", (2, 2))).shape == (1, 3, 2, 2)


def test_sixteen_bits_are_scaled_and_unknown_ranges_refused(tmp_path: Path) -> None:
    deep = np.array([[0, 257 * 51], [257 * 102, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for picture in (Image.fromarray(deep), tmp_path / "deep.png"):
        assert torch.allclose(to_tensor(picture)[0, 0], torch.tensor([[-1.0, -0.6], [-0.2, 1.0]]), atol=1e-6)
        assert torch.allclose(mask_tensor(picture)[0, 0], torch.tensor([[0.0, 0.2], [0.4, 1.0]]))
    with pytest.raises(BadInput, match="no known range"):
        to_tensor(Image.new("F", (2, 2), 0.5))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_camera_was_held(tmp_path: Path, orientation: int) -> None:
    picture = PICTURE.copy()
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    back = {1: lambda v: v, 2: np.fliplr, 3: lambda v: np.rot90(v, 2), 4: np.flipud}
    turned = {5: lambda v: v.swapaxes(0, 1), 6: lambda v: np.rot90(v, -1), 7: lambda v: np.rot90(v.swapaxes(0, 1), 2),
              8: np.rot90}  # fmt: skip
    assert np.array_equal(np.array(to_pil(to_tensor(tmp_path / "a.png"))[0]), {**back, **turned}[orientation](BYTES))


def test_transparency_of_palettes_and_colours() -> None:
    for picture in (Image.new("P", (2, 2)), Image.new("RGB", (2, 2))):
        picture.info["transparency"] = 0 if picture.mode == "P" else (0, 0, 0)
        assert to_tensor(picture).eq(1.0).all()


def test_pictures_of_several_sizes_are_refused_unless_resized() -> None:
    with pytest.raises(BadInput, match="pictures of 4 x 5, 5 x 5; give"):
        to_tensor([PICTURE, Image.new("RGB", (5, 5))])
    assert to_tensor([PICTURE, Image.new("RGB", (5, 5))], (6, 6)).shape == (2, 3, 6, 6)


def test_resizing_and_files(tmp_path: Path) -> None:
    save_png(PICTURE, tmp_path / "a.png")
    assert torch.equal(to_tensor(tmp_path / "a.png"), to_tensor(PICTURE))
    assert to_tensor(PICTURE, (8, 6)).shape == (1, 3, 8, 6)
    with pytest.raises(BadInput, match=r"\(5, 4\) for a picture of \(8, 6\)"):
        to_tensor(to_tensor(PICTURE), (8, 6))


def test_masks() -> None:
    assert mask_tensor(Image.new("1", (4, 5), 1)).eq(1.0).all()
    soft = mask_tensor(Image.new("L", (4, 5), 51))
    assert soft.shape == (1, 1, 5, 4) and torch.allclose(soft, torch.tensor(0.2))
    assert mask_tensor(torch.ones(5, 4)).shape == (1, 1, 5, 4)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.zeros(1, 4, 4), "shape"),
        (torch.full((3, 4, 4), 200.0), "scale them to"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "give floats"),
        (np.zeros((4, 4, 3)), "float64"),
        (3, "a int is not a picture"),
        ([], "empty list"),
        ("nowhere.png", "no such file"),
    ],
)
def test_bad_pictures(picture: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        to_tensor(picture)  # type: ignore[arg-type]


def test_what_is_transparent_is_not_marked() -> None:
    mask = Image.new("LA", (4, 4), (255, 0))
    mask.putpixel((1, 2), (255, 255))
    assert mask_tensor(mask).sum() == 1.0 and mask_tensor(mask)[0, 0, 2, 1] == 1.0


def test_places_to_write_to(tmp_path: Path) -> None:
    assert writable(tmp_path / "new" / "a.png") == tmp_path / "new" / "a.png" and not (tmp_path / "new").exists()
    assert writable(tmp_path / "v1.5", 3) == tmp_path / "v1.5"
    (tmp_path / "file").touch()
    for path, number, message in (
        ("a.png", 2, "one file for 2 pictures"),
        ("a.jpg", 1, "are PNG files.*a.png"),
        ("file/a.png", 1, "nothing can be written into .*file"),
        ("file", 2, "nothing can be written into"),
    ):
        with pytest.raises(BadInput, match=message):
            writable(tmp_path / path, number)


def test_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("Dear diary")
    with pytest.raises(BadInput, match="cannot be read as a picture"):
        to_tensor(tmp_path / "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    save_png(Image.fromarray(noise), tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:5000])
    with pytest.raises(BadInput, match="cannot be read as a picture"):
        to_tensor(tmp_path / "b.png")


def test_recipe(tmp_path: Path) -> None:
    recipe = {"prompt": "ein roter Kreis, 红色", "steps": 3, "guidance": "CFG(w=5.0)"}
    assert recipe_of(save_png(PICTURE, tmp_path / "a.png", recipe)) == recipe
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(BadInput, match="has no recipe"):
        recipe_of(save_png(PICTURE, tmp_path / "b.png"))
    info = PngImagePlugin.PngInfo()
    info.add_text("suffuse", "{")
    PICTURE.save(tmp_path / "c.png", pnginfo=info)
    with pytest.raises(Damaged, match="not valid JSON"):
        recipe_of(tmp_path / "c.png")
