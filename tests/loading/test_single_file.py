"""Checkpoints in the original key layout, written from stock pipelines and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import suffuse
from suffuse.core.errors import BadInput, Damaged
from suffuse.core.model import Model
from suffuse.loading import original_transformers, prediction_kind, shapes, single_file
from suffuse.testing import original_layout
from suffuse.testing.checkpoints import checkpoint

VOCABULARY = {"sd3": "tokenizer_3", "flux": "tokenizer_2"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> (stock pipeline, file), each made once."""
    made: dict[str, tuple[Any, Path]] = {}

    def get(name: str) -> tuple[Any, Path]:
        if name not in made:
            pipe = checkpoint(name)
            pipe.set_progress_bar_config(disable=True)
            folder = tmp_path_factory.mktemp(name)
            if name in VOCABULARY:  # no file holds T5's
                getattr(pipe, VOCABULARY[name]).save_pretrained(folder / VOCABULARY[name])
            made[name] = pipe, original_layout.write(pipe, folder / f"{name}.safetensors")
        return made[name]

    return get


def reload(path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    # Asking a network of random weights what it predicts would cost time and prove nothing; see the test below.
    monkeypatch.setattr(single_file, "predicts_noise", lambda model: False)
    return suffuse.load(path)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sd3", "flux"])
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


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux"])
def test_equal_picture(name: str, written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shapes do not say (heads, activations, normalisation) is as it was."""
    pipe, path = written(name)
    theirs = reload(path, monkeypatch).to_diffusers()
    theirs.scheduler = pipe.scheduler
    theirs.set_progress_bar_config(disable=True)
    side = 16 if name in ("sd3", "flux") else 64
    shape = (1, 4, 16) if name == "flux" else (1, 4, 4, 4) if name == "sd3" else (1, 4, 8, 8)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"latents": z, "num_inference_steps": 1, "output_type": "pt"}
    settings |= {"height": side, "width": side}
    pixels = [p("a photo of a cat", **settings).images for p in (pipe, theirs)]
    torch.testing.assert_close(*pixels, atol=1e-5, rtol=0)


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


# what is not in the file ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "lacks"), [("sd3", "tokenizer_3"), ("flux", "tokenizer_2")])
def test_a_t5_without_its_vocabulary(name: str, lacks: str, written: Any, tmp_path: Path) -> None:
    (tmp_path / "alone.safetensors").symlink_to(written(name)[1])
    with pytest.raises(BadInput, match=f"has no vocabulary of its T5; put the folder '{lacks}'"):
        suffuse.load(tmp_path / "alone.safetensors")


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_transformer_with_its_parts_beside_it(name: str, written: Any, tmp_path: Path) -> None:
    pipe, path = written(name)
    alone = {k.removeprefix("model.diffusion_model."): v for k, v in load_file(path).items() if "diffusion_model" in k}
    save_file(alone, tmp_path / "transformer.safetensors")
    lacking = []
    for _ in range(6):
        try:
            model = suffuse.load(tmp_path / "transformer.safetensors")
            break
        except BadInput as error:
            lacking.append(str(error).split("'")[1])
            getattr(pipe, lacking[-1]).save_pretrained(tmp_path / lacking[-1])
    assert (
        lacking
        == {
            "sd3": ["vae", "text_encoder", "text_encoder_2"],
            "flux": ["vae", "text_encoder", "text_encoder_2", "tokenizer_2"],
        }[name]
    )
    for part in ("transformer", *(key for key in lacking if not key.startswith("tokenizer"))):
        theirs = getattr(pipe, part).state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in model.components[part].state_dict().items())
    if name == "sd3":  # it works without T5
        assert model.components["text_encoder_3"] is None
        assert model.condition("a red circle")["text"].shape == (1, 77 + 256, 48)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"model.diffusion_model.x.scale_weight": torch.ones(1)}, "scaled to 8 bits"),
        (lambda w: w | {"model.diffusion_model.img_in.weight": torch.zeros(128, 24)}, "is not FLUX.1-dev or -schnell"),
        (lambda w: {k: v for k, v in w.items() if "vector_in" not in k}, "weights of no known model"),
    ],
)
def test_relatives_of_flux_are_refused(change: Any, message: str, written: Any, tmp_path: Path) -> None:
    save_file(change(load_file(written("flux")[1])), tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match=message):
        suffuse.load(tmp_path / "other.safetensors")


def test_flux_names_are_those_of_diffusers() -> None:
    """diffusers' own converter knows the released width alone; one column of it says which row goes where."""
    from diffusers import FluxTransformer2DModel
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    with torch.device("meta"):
        net = FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)
    rows = {k: torch.randn(v.shape[0], *[1] * (v.ndim - 1)) for k, v in original_layout.flux(net).items()}
    theirs = convert_flux_transformer_checkpoint_to_diffusers(dict(rows))
    ours = original_transformers.flux_names(rows)
    assert ours.keys() == theirs.keys() == net.state_dict().keys()
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sd3", "model.diffusion_model.x_embedder.proj.weight"),
        ("sd3", "model.diffusion_model.joint_blocks.1.x_block.mlp.fc1.bias"),
        ("sd3", "text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.bias"),
        ("sd3", "text_encoders.t5xxl.transformer.encoder.block.1.layer.0.SelfAttention.k.weight"),
        ("flux", "model.diffusion_model.txt_in.weight"),
        ("flux", "model.diffusion_model.single_blocks.0.linear2.bias"),
        ("flux", "model.diffusion_model.double_blocks.1.txt_mlp.0.weight"),
        ("flux", "vae.decoder.conv_in.weight"),
    ],
)
def test_a_lost_weight_of_a_transformer_is_named(name: str, key: str, written: Any, tmp_path: Path) -> None:
    weights = load_file(written(name)[1])
    del weights[key]
    save_file(weights, tmp_path / "lost.safetensors")
    (tmp_path / VOCABULARY[name]).symlink_to(written(name)[1].parent / VOCABULARY[name])
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


TRANSFORMERS: dict[str, dict[str, Any]] = {
    "sd3-medium": {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 192,
    },
    "sd3.5-medium": {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
        "dual_attention_layers": tuple(range(13)),
    },
    "flux-dev": {
        "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", list(TRANSFORMERS))
def test_sizes_of_the_released_transformers(name: str) -> None:
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    cls, layout, read = (
        (FluxTransformer2DModel, original_layout.flux, shapes.flux)
        if name.startswith("flux")
        else (SD3Transformer2DModel, original_layout.sd3, shapes.sd3)
    )
    with torch.device("meta"):
        net = cls(**TRANSFORMERS[name])
        found = cls(**read(layout(net)))
    same = dict(net.config) | ({"out_channels": 64} if name == "flux-dev" else {})
    assert {k: v for k, v in found.config.items() if not k.startswith("_")} == {
        k: v for k, v in same.items() if not k.startswith("_")
    }
