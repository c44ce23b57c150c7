"""Autoencoders and other maps between pictures and states."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BlendedWindows": "blended",
        "PixelUnshuffle": "unshuffled",
        "Pixels": "pixel",
        "TiledVAE": "tiled",
        "VAE": "autoencoder",
        "VQ": "vector_quantised",
    },
)
