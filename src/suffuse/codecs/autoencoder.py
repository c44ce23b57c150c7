"""The variational autoencoders of latent diffusion models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from ..core.codec import Codec, Space
from ..core.cond import Cond
from ..core.denoiser import EMPTY
from ..core.fingerprint import fingerprint
from ..core.law import Draw


class VAE(Codec):
    """z = (encoder(x) - shift) scale;  x = decoder(z / scale + shift).

    Tiling and slicing for large pictures are switched on the module itself, as in diffusers
    (`codec.vae.enable_tiling()`); `TiledVAE` is the whole picture's result in tiles.

    Args:
        vae: diffusers' AutoencoderKL.
    """

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae
        self.scale: float = vae.config.scaling_factor
        self.shift: float = getattr(vae.config, "shift_factor", None) or 0.0

    @cached_property
    def space(self) -> Space:  # type: ignore[override]
        """Named after the autoencoder's weights: two of one size are two spaces."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return Space(fingerprint(self.vae), self.vae.config.latent_channels, factor)

    @property
    def components(self) -> Mapping[str, Any]:
        return {"vae": self.vae}

    def encode(self, data: Tensor, noise: Draw | None = None) -> tuple[Tensor, Cond]:
        law = self.vae.encode(data.to(self.vae.dtype)).latent_dist
        z = law.mode() if noise is None else law.mean + law.std * noise(law.mean)
        return ((z - self.shift) * self.scale).to(data.dtype), EMPTY

    def decode(self, value: Tensor, cond: Cond = EMPTY) -> Tensor:
        z = value / self.scale + self.shift
        return self.vae.decode(z.to(self.vae.dtype), return_dict=False)[0].to(value.dtype)
