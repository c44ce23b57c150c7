from __future__ import annotations

import pytest
import torch

from suffuse.codecs.autoencoder import VAE
from suffuse.codecs.pixel import Pixels
from suffuse.core.errors import BadInput
from suffuse.core.noise import Keyed
from suffuse.testing.pipelines import autoencoder

PICTURE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("shift", [None, 0.1])
@torch.no_grad()
def test_scale_and_shift(shift: float | None) -> None:
    codec = VAE(autoencoder(shift=shift))
    law = codec.vae.encode(PICTURE).latent_dist
    z, side = codec.encode(PICTURE)
    assert torch.allclose(z, (law.mean - (shift or 0.0)) * codec.vae.config.scaling_factor)
    assert not side.entries
    assert torch.allclose(codec.decode(z), codec.vae.decode(law.mean).sample, atol=1e-5)
    assert codec.space.channels == 4 and codec.space.factor == 4


@torch.no_grad()
def test_drawing_is_keyed() -> None:
    codec = VAE(autoencoder())

    def draw(ids: list[int]) -> torch.Tensor:
        return codec.encode(PICTURE[ids], lambda like, tag="", kind="normal": Keyed(1).normal(like, ids, "vae"))[0]

    assert torch.allclose(draw([0, 1])[1:], draw([1]), atol=1e-5)
    assert not torch.allclose(draw([0, 1]), codec.encode(PICTURE)[0], atol=1e-3)


def test_spaces_of_other_weights_differ() -> None:
    one, two = VAE(autoencoder()), VAE(autoencoder())
    assert one.space == two.space
    with torch.no_grad():
        two.vae.encoder.conv_in.bias += 1e-6
    assert one.space != VAE(two.vae).space


@torch.no_grad()
def test_tiling_is_the_modules_own_switch() -> None:
    codec = VAE(autoencoder())
    codec.vae.enable_slicing()
    z, _ = codec.encode(PICTURE)
    sliced = codec.decode(z)
    codec.vae.disable_slicing()
    assert torch.allclose(sliced, codec.decode(z), atol=1e-5)


def test_pixels() -> None:
    colour, grey = Pixels(), Pixels(1)
    assert torch.equal(colour.decode(colour.encode(PICTURE)[0]), PICTURE)
    z, _ = grey.encode(PICTURE)
    assert z.shape == (2, 1, 16, 16) and grey.decode(z).shape == (2, 3, 16, 16)
    assert torch.equal(grey.encode(grey.decode(z))[0], z)
    with pytest.raises(BadInput, match="channels=4"):
        Pixels(4)
