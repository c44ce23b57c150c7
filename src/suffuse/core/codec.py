"""Between data and the space in which it diffuses: the autoencoder of a latent model, nothing for a pixel model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .cond import Cond
from .denoiser import EMPTY
from .law import Draw


@dataclass(frozen=True)
class Space:
    """A latent space; models share one only where these are equal.

    Args:
        name: "pixels", or what made it.
        channels: of a state.
        factor: pixels of a picture for each entry of a state, along each side.
    """

    name: str
    channels: int
    factor: int = 1

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of the state of a picture of so many pixels, (height, width)."""
        return self.channels, size[0] // self.factor, size[1] // self.factor


class Codec(nn.Module, ABC):
    """Maps pictures to states and back."""

    space: Space

    @property
    def components(self) -> Mapping[str, Any]:
        """What a saved model stores of it, by diffusers' names."""
        return {}

    @abstractmethod
    def encode(self, data: Tensor, noise: Draw | None = None) -> tuple[Tensor, Cond]:
        """The state of pictures, and side information that decoding may use.

        Args:
            data: (B, 3, H, W) in [-1, 1].
            noise: source of the draw where the encoder returns a distribution; None takes its mode.
        """

    @abstractmethod
    def decode(self, value: Tensor, cond: Cond = EMPTY) -> Tensor:
        """(B, 3, H, W), nominally in [-1, 1], of states (B, C, h, w)."""
