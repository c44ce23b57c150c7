"""Models that diffuse the picture itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.codec import Codec, Space
from ..core.cond import Cond
from ..core.denoiser import EMPTY
from ..core.errors import BadInput
from ..core.law import Draw


class Pixels(Codec):
    """The picture is the state; a model of one channel sees and makes grey pictures.

    Args:
        channels: 3 for colour, 1 for grey.
    """

    def __init__(self, channels: int = 3):
        super().__init__()
        if channels not in (1, 3):
            raise BadInput(f"channels={channels}: pictures have 1 channel or 3; latent models need their autoencoder")
        self.space = Space("pixels", channels)

    def encode(self, data: Tensor, noise: Draw | None = None) -> tuple[Tensor, Cond]:
        return (data.mean(1, keepdim=True) if self.space.channels == 1 else data), EMPTY

    def decode(self, value: Tensor, cond: Cond = EMPTY) -> Tensor:
        return torch.cat([value] * 3, 1) if self.space.channels == 1 else value
