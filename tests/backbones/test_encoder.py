"""Patches and adapters on text encoders and autoencoders."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from suffuse.backbones.encoder import Encoder
from suffuse.core.call import Call, stack
from suffuse.core.patch import Patch
from suffuse.core.site import Site, Sites

IDS = torch.tensor([[1, 5, 9, 2], [1, 7, 2, 2]])


def text() -> CLIPTextModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPTextConfig(
            vocab_size=11, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=4, eos_token_id=2, bos_token_id=1, pad_token_id=2,
        )  # fmt: skip
        return CLIPTextModel(config).eval()


def autoencoder() -> AutoencoderKL:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKL(
            block_out_channels=(4, 8),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ).eval()


@dataclass(frozen=True)
class Maps(Patch):
    """Probabilities as they are, or to the first key only."""

    first: bool = False

    def sites(self, net: Sites) -> Sequence[Site]:
        return net.attention()

    def probs(self, call: Call, p: Tensor) -> Tensor:
        call.scratch[call.site.name] = p
        return torch.zeros_like(p).index_fill(-1, torch.tensor([0]), 1.0) if self.first else p


@dataclass(frozen=True)
class Half(Patch):
    """Half of every feed-forward's output, on row 0 only."""

    def sites(self, net: Sites) -> Sequence[Site]:
        return net.of("unit", role="feedforward")

    def around(self, call: Call) -> Tensor:
        return torch.cat([0.5 * call.take([0])(), call.take([1])()])


def test_text_encoders_have_attention_sites() -> None:
    net = text()
    encoder = Encoder(net)
    assert all(s.name.endswith("self_attn") for s in encoder.sites.attention("self"))
    assert len(encoder.sites.attention()) == len(encoder.sites.blocks) == 2 and len(encoder.sites.of("linear")) == 12
    plain = net(IDS).last_hidden_state
    assert torch.equal(encoder(IDS).last_hidden_state, plain)
    assert torch.allclose(encoder.with_(Maps())(IDS).last_hidden_state, plain, atol=1e-5)
    assert not torch.allclose(encoder.with_(Maps(first=True))(IDS).last_hidden_state, plain, atol=1e-3)
    assert torch.equal(encoder(IDS).last_hidden_state, plain) and stack.frame is None


def test_rows_of_text_stay_apart() -> None:
    encoder = Encoder(text())
    plain, halved = encoder(IDS).last_hidden_state, encoder.with_(Half())(IDS).last_hidden_state
    assert torch.equal(halved[1], plain[1]) and not torch.allclose(halved[0], plain[0])


def test_autoencoders_have_sites() -> None:
    net = autoencoder()
    encoder = Encoder(net)
    assert {s.name for s in encoder.sites.attention()} == {
        f"{p}.mid_block.attentions.0" for p in ("encoder", "decoder")
    }
    assert len(encoder.sites.of("unit", role="resnet")) > 4
    x = torch.randn(1, 3, 8, 8)
    plain = net(x).sample
    assert torch.allclose(encoder.with_(Maps())(x).sample, plain, atol=1e-5)
    assert not torch.allclose(encoder.with_(Maps(first=True))(x).sample, plain, atol=1e-4)


def test_copies_of_patched_encoders_are_independent() -> None:
    view = Encoder(text()).with_(Half())
    expected, twin = view(IDS).last_hidden_state, copy.deepcopy(view)
    with torch.no_grad():
        for p in view.parameters():
            p.mul_(1.5)
    assert torch.equal(twin(IDS).last_hidden_state, expected)
