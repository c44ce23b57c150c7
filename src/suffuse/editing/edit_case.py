"""A picture that is to be changed, with what is asked for and where."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class EditCase:
    """One case of a benchmark.

    Args:
        name: of the case in its benchmark.
        kind: of edit, such as "colour".
        image: (3, H, W) in [-1, 1].
        source, target: prompts before and after.
        mask: (H, W) bool, True where the picture is to change.
        words: the word before and after by which a local blend finds the place, or ().
        wanted: what the edit asks for, as a caption of the world; "" outside of it.
        truth: (3, H, W) the true result, or None.
        instruction: what is to be done, in words; "" where only the prompts say it.
    """

    name: str
    kind: str
    image: Tensor
    source: str
    target: str
    mask: Tensor
    words: tuple[str, ...] = ()
    wanted: str = ""
    truth: Tensor | None = None
    instruction: str = ""

    def resized(self, size: tuple[int, int]) -> EditCase:
        """The case with pictures of another height and width; a pixel is to change where most of it was."""

        def picture(pixels: Tensor) -> Tensor:
            found = F.interpolate(pixels[None], size, mode="bicubic", antialias=True, align_corners=False)
            return found[0].clamp(-1, 1)

        if tuple(self.image.shape[-2:]) == size:
            return self
        mask = F.interpolate(self.mask[None, None].float(), size, mode="area")[0, 0] >= 0.5
        truth = None if self.truth is None else picture(self.truth)
        return replace(self, image=picture(self.image), mask=mask, truth=truth)
