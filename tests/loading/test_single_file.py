"""Checkpoints in the original key layout, written from stock pipelines and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import suffuse
from suffuse.core.errors import Damaged
from suffuse.core.model import Model
from suffuse.loading import prediction_kind, shapes, single_file
from suffuse.testing import original_layout, pipelines


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> (stock pipeline, file), each made once."""
    made: dict[str, tuple[Any, Path]] = {}

    def get(name: str) -> tuple[Any, Path]:
        if name not in made:
            pipe = pipelines.whole_vocabulary(name)
            pipe.set_progress_bar_config(disable=True)
            made[name] = pipe, original_layout.write(pipe, tmp_path_factory.mktemp(name) / f"{name}.safetensors")
        return made[name]

    return get


def reload(path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    # Asking a network of random weights what it predicts would cost time and prove nothing; see the test below.
    monkeypatch.setattr(single_file, "predicts_noise", lambda model: False)
    return suffuse.load(path)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_every_weight_and_every_size(name: str, written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, path = written(name)
    model = reload(path, monkeypatch)
    for key, part in model.components.items():
        if isinstance(part, nn.Module):
            theirs = getattr(pipe, key).state_dict()
            assert part.state_dict().keys() == theirs.keys()
            assert all(torch.equal(v, theirs[k]) for k, v in part.state_dict().items())
        else:
            text = "An astronaut, riding a höärse 12"
            assert part(text).input_ids == getattr(pipe, key)(text).input_ids


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_equal_picture(name: str, written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shapes do not say (heads, activations, normalisation) is as it was."""
    pipe, path = written(name)
    theirs = reload(path, monkeypatch).to_diffusers()
    theirs.scheduler = pipe.scheduler
    theirs.set_progress_bar_config(disable=True)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"latents": z, "num_inference_steps": 1, "output_type": "pt", "height": 64, "width": 64}
    pixels = [p("a photo of a cat", **settings).images for p in (pipe, theirs)]
    assert torch.equal(*pixels)


def test_saved_as_a_folder(written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = reload(written("sd1")[1], monkeypatch)
    assert suffuse.load(model.save_pretrained(tmp_path / "folder")).fingerprint == model.fingerprint


def test_half_precision(written: Any, tmp_path: Path) -> None:
    weights = load_file(written("sd1")[1])
    save_file({k: v.half() for k, v in weights.items()}, tmp_path / "half.safetensors")
    assert {p.dtype for p in suffuse.load(tmp_path / "half.safetensors").net.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.middle_block.0.in_layers.2.weight",
        "first_stage_model.decoder.conv_in.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias",
    ],
)
def test_a_lost_weight_is_named(key: str, written: Any, tmp_path: Path) -> None:
    weights = load_file(written("sd1")[1])
    weights[f"{key}_lost"] = weights.pop(key)
    if key.endswith("input_blocks.0.0.weight"):  # by this one the file is recognised
        weights[key] = torch.zeros(1)
        weights.pop("model.diffusion_model.out.2.weight")
    save_file(weights, tmp_path / "lost.safetensors")
    with pytest.raises(Damaged, match="lost.safetensors"):
        suffuse.load(tmp_path / "lost.safetensors")


class Fixed(nn.Module):
    """A UNet whose answer is known."""

    def __init__(self, answer: float):
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer * x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("answer", "noise"), [(1.0, True), (0.9, True), (0.0, False), (-0.1, False)])
def test_asking_what_a_network_predicts(
    answer: float, noise: bool, written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near pure noise, eps is the state itself and v has almost nothing of it."""
    model = reload(written("sd2")[1], monkeypatch)
    fixed = Fixed(answer)
    monkeypatch.setattr(type(model.denoiser.family), "call", lambda self, net, x, t, cond: fixed(x))
    assert prediction_kind.predicts_noise(model) is noise


RELEASED: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
        "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
"""What the configurations of the released UNets say beyond diffusers' defaults."""


@pytest.mark.parametrize("name", list(RELEASED))
def test_sizes_of_the_released_models(name: str) -> None:
    """Read off the full-size networks, on the meta device, which holds shapes and no numbers."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        net = UNet2DConditionModel(**RELEASED[name])
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
        )  # fmt: skip
        found = UNet2DConditionModel(**shapes.unet(original_layout.unet(net), 64, 1280 if name == "sdxl" else None))
        same = AutoencoderKL(**shapes.vae(original_layout.vae(vae), 0.18215))
    for ours, theirs in ((found, net), (same, vae)):
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in theirs.state_dict().items()
        }
    heads = [m.heads for m in found.modules() if type(m).__name__ == "Attention"]
    assert heads == [m.heads for m in net.modules() if type(m).__name__ == "Attention"]
