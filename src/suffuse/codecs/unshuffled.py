"""Pictures as states of fewer, thicker pixels: nothing is lost, and convolutions have less to walk over."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..core.codec import Codec, Space
from ..core.cond import Cond
from ..core.denoiser import EMPTY
from ..core.errors import BadInput
from ..core.law import Draw


class PixelUnshuffle(Codec):
    """Each square of factor x factor pixels becomes the channels of one entry; a permutation of the numbers.

    Args:
        factor: side of the squares; sides of pictures are multiples of it.
        channels: of the pictures.

    Reference: Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network, 1609.05158.
    """

    def __init__(self, factor: int = 4, channels: int = 3):
        super().__init__()
        if factor < 1 or channels < 1:
            raise BadInput(f"factor={factor}, channels={channels}: give whole numbers, 1 or more")
        self.space = Space(f"pixels in squares of {factor}", channels * factor**2, factor)

    def encode(self, data: Tensor, noise: Draw | None = None) -> tuple[Tensor, Cond]:
        return F.pixel_unshuffle(data, self.space.factor), EMPTY

    def decode(self, value: Tensor, cond: Cond = EMPTY) -> Tensor:
        return F.pixel_shuffle(value, self.space.factor)
