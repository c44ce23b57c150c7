from __future__ import annotations

import pytest
import torch
from diffusers import VQModel

from suffuse.codecs import VQ, PixelUnshuffle
from suffuse.core.errors import BadInput


def test_unshuffled_pixels_are_the_same_numbers():
    picture = torch.arange(2 * 3 * 8 * 12).float().view(2, 3, 8, 12)
    codec = PixelUnshuffle(4)
    z, side = codec.encode(picture)
    assert z.shape == (2, 48, 2, 3) and not side.entries
    assert codec.space.channels == 48 and codec.space.factor == 4
    assert torch.equal(z[0, :16, 1, 2], picture[0, 0, 4:, 8:].flatten())
    assert torch.equal(codec.decode(z), picture)
    with pytest.raises(BadInput, match="factor=0"):
        PixelUnshuffle(0)


def test_vector_quantised_latents_are_quantised_on_the_way_back():
    torch.manual_seed(0)
    vq = VQModel(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
                 up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=8, scaling_factor=0.5,
                 mid_block_add_attention=False)  # fmt: skip
    vq = vq.eval().requires_grad_(False)
    picture = torch.rand(2, 3, 16, 16) * 2 - 1
    codec = VQ(vq)
    z, _ = codec.encode(picture)
    assert torch.equal(z, 0.5 * vq.encode(picture).latents) and z.shape == (2, 3, 8, 8)
    assert codec.space.factor == 2 and codec.space.channels == 3
    torch.testing.assert_close(codec.decode(z), vq.decode(vq.encode(picture).latents).sample)
    nudged = z + 1e-6 * torch.randn(z.shape)
    torch.testing.assert_close(codec.decode(nudged), codec.decode(z))  # the same words of the codebook
    own = VQ(vq, scale=1.0)
    torch.testing.assert_close(own.decode(own.encode(picture)[0]), codec.decode(z))
    assert own.space != codec.space and codec.components == {"vqvae": vq}
