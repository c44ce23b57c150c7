"""Pictures as tensors, as PIL images, and as PNG files that carry the recipe which rebuilds them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from .core.errors import BadInput, Damaged
from .core.files import atomic_write

Picture: TypeAlias = Image.Image | Tensor | np.ndarray | str | os.PathLike[str]
"""A PIL image; a tensor (3, H, W) or (B, 3, H, W) in [-1, 1]; a uint8 array (H, W, 3); or a file."""

KEY = "suffuse"


def to_tensor(pictures: Picture | Sequence[Picture], size: tuple[int, int] | None = None) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1].

    Args:
        pictures: one or several, of one size unless `size` is given. They are turned as their EXIF data says, grey
            and 16 bits are understood, and what is transparent shows white.
        size: height and width to resize to (Lanczos).

    Raises:
        BadInput: not a picture, or pictures of different sizes.
    """
    found = [_one(p, size, "RGB", "image") * 2.0 - 1.0 for p in _several(pictures)]
    if len({v.shape for v in found}) > 1:
        sizes = ", ".join(f"{v.shape[-1]} x {v.shape[-2]}" for v in found)
        raise BadInput(f"image: pictures of {sizes}; give pictures of one size, or one at a time")
    return torch.cat(found)


def mask_tensor(masks: Picture | Sequence[Picture], size: tuple[int, int] | None = None) -> Tensor:
    """(B, 1, H, W) float32 in [0, 1], 1 where the mask is white, 0 where it is black or transparent.

    A tensor is taken as it is.
    """
    return torch.cat([_one(m, size, "L", "mask_image") for m in _several(masks)])


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """PIL images of pixels (B, 3, H, W) in [-1, 1]; values outside are clipped."""
    values = ((pixels.detach().float().cpu() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(v.permute(1, 2, 0).numpy()) for v in values]


def save_png(image: Image.Image, path: str | os.PathLike[str], recipe: Mapping[str, Any] | None = None) -> Path:
    """Write a PNG file whole or not at all, with its recipe as text chunk "suffuse"."""
    info = PngImagePlugin.PngInfo()
    if recipe is not None:
        info.add_itxt(KEY, json.dumps(recipe, ensure_ascii=False))
    return atomic_write(path, lambda file: image.save(file, "PNG", pnginfo=info))


def writable(path: str | os.PathLike[str], number: int = 1) -> Path:
    """The PNG file or folder `path`, where so many pictures can be written; to be asked before they are made.

    Raises:
        BadInput: one file for several pictures, a file of another kind, or a place that cannot be written to.
    """
    path = Path(path)
    if _is_file(path) and number > 1:
        raise BadInput(f"output: {path} is one file for {number} pictures; give a folder")
    if path.suffix.lower() in Image.registered_extensions().keys() - {".png"} and not path.is_dir():
        raise BadInput(f"output: {path}: pictures are PNG files, with their recipe; give {path.with_suffix('.png')}")
    home = path.parent if _is_file(path) else path
    there = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise BadInput(f"output: nothing can be written into {there}; give another place")
    return path


def _is_file(path: Path) -> bool:
    return path.suffix.lower() == ".png"


def save_pngs(
    images: Sequence[Image.Image], path: str | os.PathLike[str], recipes: Sequence[Mapping[str, Any]]
) -> list[Path]:
    """Write PNG files with their recipes: to this file, or as 000.png, 001.png, ... into this folder."""
    path = writable(path, len(images))
    if _is_file(path):
        return [save_png(images[0], path, recipes[0])]
    return [save_png(i, path / f"{k:03d}.png", r) for k, (i, r) in enumerate(zip(images, recipes, strict=True))]


def recipe_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The recipe in a PNG file that suffuse wrote.

    Raises:
        BadInput: no such file, not a picture, or one without a recipe. Damaged: the recipe does not parse.
    """
    text = _open(path).info.get(KEY)
    if text is None:
        raise BadInput(
            f"{path}: has no recipe; it was not written by suffuse, or a program that edited it left the recipe out"
        )
    try:
        return json.loads(text)
    except ValueError as error:
        raise Damaged(f"{path}: its recipe is not valid JSON ({error}); it cannot be rebuilt from it") from error


def _open(path: str | os.PathLike[str]) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
        return image
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file; check the path") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: cannot be read as a picture ({error}); give a PNG, JPEG or WebP file") from error


def _several(pictures: Any) -> list[Any]:
    if isinstance(pictures, Tensor):
        return list(pictures) if pictures.ndim == 4 else [pictures]
    if isinstance(pictures, np.ndarray):
        return list(pictures) if pictures.ndim == 4 else [pictures]
    if isinstance(pictures, (list, tuple)):
        if not pictures:
            raise BadInput("image: an empty list; give at least one picture")
        return list(pictures)
    return [pictures]


def _one(picture: Any, size: tuple[int, int] | None, mode: str, name: str) -> Tensor:
    """(1, C, H, W) in [0, 1]."""
    if isinstance(picture, Tensor):
        value = _from_tensor(picture, mode, name)
        if size is not None and tuple(value.shape[-2:]) != size:
            raise BadInput(
                f"{name}: a tensor of {tuple(value.shape[-2:])} for a picture of {size}; resize it, or give a PIL image"
            )
        return value
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            raise BadInput(f"{name}: an array of {picture.dtype}; give uint8 values, or a tensor")
        picture = Image.fromarray(picture)
    elif not isinstance(picture, Image.Image):
        if not isinstance(picture, (str, os.PathLike)):
            raise BadInput(f"{name}: a {type(picture).__name__} is not a picture; give a PIL image, a tensor or a path")
        picture = _open(picture)
    picture = _eight_bits(ImageOps.exif_transpose(picture), name)
    if picture.has_transparency_data:
        # What is transparent shows white, as on a page, or marks nothing; the colour hidden below it means nothing.
        page = Image.new("RGBA", picture.size, "white" if mode == "RGB" else "black")
        picture = Image.alpha_composite(page, picture.convert("RGBA"))
    picture = picture.convert(mode)
    if size is not None and picture.size != size[::-1]:
        picture = picture.resize(size[::-1], Image.Resampling.LANCZOS)
    array = torch.from_numpy(np.array(picture, dtype=np.float32) / 255.0)
    return array[None, None] if mode == "L" else array.permute(2, 0, 1)[None]


def _eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """The picture with its 16 bits scaled to 8, where Pillow would cut values off at 255."""
    if picture.mode in ("I", "F"):
        raise BadInput(f"{name}: pixels of mode {picture.mode!r} have no known range; give a picture of 8 or 16 bits")
    if not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.array(picture, dtype=np.float32) / 257).round().astype(np.uint8))


def _from_tensor(value: Tensor, mode: str, name: str) -> Tensor:
    channels = 1 if mode == "L" else 3
    if mode == "L" and value.ndim == 2:
        value = value[None]
    if value.ndim != 3 or value.shape[0] != channels or not value.is_floating_point():
        raise BadInput(
            f"{name}: a {value.dtype} tensor of shape {tuple(value.shape)}; give floats of shape (B, {channels}, H, W)"
        )
    low = 0.0 if mode == "L" else -1.0
    if value.numel() and not (low - 1e-3 <= value.min().item() and value.max().item() <= 1.0 + 1e-3):
        raise BadInput(f"{name}: values from {value.min():.3g} to {value.max():.3g}; scale them to [{low:.0f}, 1]")
    value = value.float()[None]
    return value if mode == "L" else value / 2 + 0.5
