from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DModel, VQModel

from suffuse.backbones import family_of
from suffuse.codecs import VQ
from suffuse.core.denoiser import Network
from suffuse.core.prediction import X0
from suffuse.restoration import ResShift


@pytest.fixture
def restoring() -> Callable[..., Network]:
    """A small UNet that reads the source, and the mask if it has the channel for it."""

    def make(inputs: int = 6, process=ResShift(), kind=X0) -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = UNet2DModel(
                sample_size=16,
                in_channels=inputs,
                out_channels=3,
                block_out_channels=(8, 8),
                layers_per_block=1,
                norm_num_groups=4,
                down_block_types=("DownBlock2D",) * 2,
                up_block_types=("UpBlock2D",) * 2,
            )
        return Network(net.eval(), family_of(net), process, kind)

    return make


@pytest.fixture
def codec() -> VQ:
    """A small VQ-f2."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        vq = VQModel(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            num_vq_embeddings=16,
            scaling_factor=1.0,
            mid_block_add_attention=False,
        )
    return VQ(vq.eval().requires_grad_(False))
