"""The vector-quantised autoencoders of the first latent diffusion models (VQ-f4 and its like)."""

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


class VQ(Codec):
    """z = scale encoder(x), not yet quantised;  x = decoder(quantise(z / scale)).

    Args:
        vq: diffusers' VQModel.
        scale: factor of the latents; None is the model's own. ResShift's VQ-f4 has 1.

    Reference: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2112.10752.
    """

    def __init__(self, vq: Any, scale: float | None = None):
        super().__init__()
        self.vq = vq
        self.scale: float = vq.config.scaling_factor if scale is None else scale

    @cached_property
    def space(self) -> Space:  # type: ignore[override]
        """Named after the autoencoder's weights and the scale."""
        factor = 2 ** (len(self.vq.config.block_out_channels) - 1)
        return Space(f"{fingerprint(self.vq)} x {self.scale:g}", self.vq.config.latent_channels, factor)

    @property
    def components(self) -> Mapping[str, Any]:
        return {"vqvae": self.vq}

    def encode(self, data: Tensor, noise: Draw | None = None) -> tuple[Tensor, Cond]:
        return (self.vq.encode(data.to(self.vq.dtype)).latents * self.scale).to(data.dtype), EMPTY

    def decode(self, value: Tensor, cond: Cond = EMPTY) -> Tensor:
        return self.vq.decode((value / self.scale).to(self.vq.dtype), return_dict=False)[0].to(value.dtype)
