"""Contact sheets: several pictures in one PNG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from suffuse.core.errors import BadInput
from suffuse.core.files import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def contact_sheet(pictures: Tensor, *, columns: int | None = None, gap: int = 4) -> Image:
    """Pictures (B, 3, H, W) in [-1, 1] side by side on white; by default in about as many rows as columns."""
    import numpy as np
    from PIL import Image

    count, _, height, width = pictures.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=np.uint8)
    pixels = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for i, picture in enumerate(pixels):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return Image.fromarray(sheet)


def save_png(image: Image, path: Path) -> Path:
    """Write a picture as PNG, whole or not at all."""
    if path.suffix.lower() != ".png":
        raise BadInput(f"output: {path} does not end in .png; give the name of a PNG file")
    return atomic_write(path, lambda file: image.save(file, "PNG"))
