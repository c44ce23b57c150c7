"""Tile by tile, with the result of the whole picture."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from suffuse.codecs import VAE, TiledVAE
from suffuse.core.errors import BadInput


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = AutoencoderKL(
            block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3, norm_num_groups=4,
            up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, scaling_factor=0.5,
        )  # fmt: skip
        for p in net.parameters():
            if p.ndim == 1:
                nn.init.normal_(p, 1.0 if bool((p == 1).all()) else 0.0, 0.3)
    return net.eval().requires_grad_(False)


def draw(*shape: int) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return x * torch.linspace(0.2, 2.0, shape[-1])  # unlike from place to place, so that tiles' statistics differ


@pytest.mark.parametrize("size", [(40, 56), (33, 17)])
def test_decoding_by_tiles_is_decoding(vae, size):
    z = draw(2, 4, *size)
    found, whole = TiledVAE(vae, 16).decode(z), VAE(vae).decode(z)
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)
    tiling = AutoencoderKL.from_config(vae.config)
    tiling.load_state_dict(vae.state_dict())
    tiling.enable_tiling()
    tiling.tile_latent_min_size, tiling.tile_sample_min_size = 16, 64
    with torch.no_grad():
        assert (VAE(tiling).decode(z) - whole).abs().max() > 100 * (found - whole).abs().max()


@pytest.mark.parametrize("size", [(40, 56), (33, 17)])
def test_encoding_by_tiles_is_encoding(vae, size):
    x = draw(2, 3, 4 * size[0], 4 * size[1]).clamp(-1, 1)
    torch.testing.assert_close(TiledVAE(vae, 16).encode(x)[0], VAE(vae).encode(x)[0], atol=1e-4, rtol=1e-4)
    noise = draw(2, 4, *size)
    found, whole = (codec.encode(x, lambda like: noise)[0] for codec in (TiledVAE(vae, 16), VAE(vae)))
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_the_largest_map_does_not_grow_with_the_picture(vae):
    def largest(run) -> int:
        """Entries of the largest map that a convolution with more channels than a picture returns."""
        seen = [0]
        with torch.no_grad():
            handle = nn.modules.module.register_module_forward_hook(
                lambda m, a, out: seen.append(out.numel()) if isinstance(m, nn.Conv2d) and out.shape[1] > 4 else None
            )
            try:
                run()
            finally:
                handle.remove()
        return max(seen)

    tiled, whole = TiledVAE(vae, 16), VAE(vae)
    sizes = [largest(lambda n=n: tiled.decode(draw(1, 4, 16, n))) for n in (64, 128)]
    assert sizes[0] == sizes[1] < 0.5 * largest(lambda: whole.decode(draw(1, 4, 16, 128)))


def test_small_pictures_and_the_module_are_as_ever(vae):
    z = draw(1, 4, 8, 8)
    names = [name for name, _ in vae.named_modules()]
    assert torch.equal(TiledVAE(vae, 8).decode(z), VAE(vae).decode(z))
    TiledVAE(vae, 4).decode(z)
    assert [name for name, _ in vae.named_modules()] == names
    assert all(not isinstance(m, nn.Module) or "Whole" not in type(m).__name__ for m in vae.modules())
    assert TiledVAE(vae).space == VAE(vae).space


def test_refusals(vae):
    with pytest.raises(BadInput, match="tile=0"):
        TiledVAE(vae, 0)
    with pytest.raises(BadInput, match="Linear"):
        TiledVAE(nn.Linear(1, 1))
