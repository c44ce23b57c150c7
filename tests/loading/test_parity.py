"""Pipelines written by diffusers give, loaded by suffuse, the pictures that diffusers itself makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

import suffuse
from suffuse.core.model import Model
from suffuse.samplers.ancestral import DDIM
from suffuse.samplers.spacing import Leading
from suffuse.testing import pipelines

TEXT = ("sd1", "sd2", "sdxl", "sd3", "flux", "pixart-alpha", "pixart-sigma")
PROMPTS = ["a red circle left of a blue square", "photo"]
NEGATIVE = "no"
STEPS, SCALE = 3, 4.0


def start(seed: int = 1) -> Tensor:
    """Latents of two pictures of 32 by 32 pixels."""
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> bool:
    """Equal to `tolerance`, in units of the values' own size where that is above 1."""
    assert ours.shape == theirs.shape
    return bool((ours - theirs).abs().max() <= tolerance * max(1.0, theirs.abs().max().item()))


def sizes(name: str) -> dict[str, Any]:
    """What a stock pipeline must be told to make a picture of 32 by 32 pixels."""
    if name.startswith("pixart"):
        return {"height": 32, "width": 32, "use_resolution_binning": False, "clean_caption": False}
    return {"height": 32, "width": 32}


def stock(pipe: Any, name: str, z: Tensor, output: str, negative: bool = True) -> Tensor:
    """Final latents, or pixels in [0, 1], of the two prompts from start latents z."""
    settings: dict[str, Any] = {
        "num_inference_steps": STEPS,
        "guidance_scale": SCALE,
        "output_type": output,
        **sizes(name),
    }
    if name == "flux":
        z = pipe._pack_latents(z, *z.shape)
    elif negative:
        settings["negative_prompt"] = [NEGATIVE] * 2
    out = pipe(PROMPTS, latents=z, **settings).images
    return pipe._unpack_latents(out, 32, 32, pipe.vae_scale_factor) if name == "flux" and output == "latent" else out


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> (stock pipeline, folder, our model), each made once."""
    made: dict[str, tuple[Any, Path, Model]] = {}

    def get(name: str) -> tuple[Any, Path, Model]:
        if name not in made:
            pipe = pipelines.PIPELINES[name]()
            pipe.set_progress_bar_config(disable=True)
            folder = tmp_path_factory.mktemp(name)
            pipe.save_pretrained(folder)
            if name == "dit":  # the released model has its classes in the index; save_pretrained drops them
                index = json.loads((folder / "model_index.json").read_text())
                names = {str(number): label for label, number in pipe.labels.items()}
                (folder / "model_index.json").write_text(json.dumps({**index, "id2label": names}))
            made[name] = pipe, folder, suffuse.load(folder)
        return made[name]

    return get


def settings(name: str, pipe: Any) -> dict[str, Any]:
    """Nothing, but for SD1, whose released scheduler (PLMS) has no counterpart: DDIM on both sides."""
    if name != "sd1":
        return {}
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return {"sampler": DDIM(), "spacing": Leading(offset=1, end=1 / 1000)}


@pytest.mark.parametrize("name", TEXT)
def test_equal_picture(name: str, written: Any) -> None:
    pipe, _, model = written(name)
    z, how = start(), settings(name, pipe)
    negative = None if name == "flux" else NEGATIVE
    out = model.generate(
        PROMPTS, negative_prompt=negative, latents=z, num_inference_steps=STEPS, guidance_scale=SCALE,
        height=32, width=32, **how,
    )  # fmt: skip
    assert close(out.latents, stock(pipe, name, z, "latent"))
    theirs = stock(pipe, name, z, "pt")
    assert theirs.std() > 0.1, "a flat picture would prove nothing"
    assert close((model.decode(out.latents) / 2 + 0.5).clamp(0, 1), theirs)
    assert out.nfe.tolist() == [STEPS * (1 if name == "flux" else 2)] * 2


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "pixart-alpha"])
def test_equal_without_negative_prompt(name: str, written: Any) -> None:
    """The absence of a prompt is the empty text, or zeros in SDXL."""
    pipe, _, model = written(name)
    z, how = start(2), settings(name, pipe)
    out = model.generate(PROMPTS, latents=z, steps=STEPS, guidance=SCALE, height=32, width=32, **how)
    assert close(out.latents, stock(pipe, name, z, "latent", negative=False))


def test_flux_without_a_scale_as_input(tmp_path: Path) -> None:
    pipe = pipelines.flux(guidance=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    z = start()
    out = suffuse.load(tmp_path).generate(PROMPTS, latents=z, steps=STEPS, height=32, width=32)
    assert close(out.latents, stock(pipe, "flux", z, "latent"))


def test_sd3_without_t5(tmp_path: Path) -> None:
    pipe = pipelines.stable_diffusion_3()
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    z = start()
    out = suffuse.load(tmp_path).generate(PROMPTS, negative_prompt=NEGATIVE, latents=z, steps=STEPS, guidance=SCALE)
    assert close(out.latents, stock(pipe, "sd3", z, "latent"))


def test_pixart_that_is_told_the_size(tmp_path: Path) -> None:
    """The model of 1024 pixels, written under the class names of its release."""
    pipe = pipelines.pixart_alpha(side=128)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    for file, changes in (
        ("model_index.json", {"transformer": ["diffusers", "Transformer2DModel"]}),
        ("transformer/config.json", {"_class_name": "Transformer2DModel"}),
    ):
        path = tmp_path / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    z, model = start(), suffuse.load(tmp_path)
    out = model.generate(PROMPTS, negative_prompt=NEGATIVE, latents=z, steps=STEPS, guidance=SCALE, height=32, width=32)
    assert close(out.latents, stock(pipe, "pixart-alpha", z, "latent"))
    assert model.defaults.size == (512, 512) and "resolution" in model.condition("photo")


def test_latent_consistency(written: Any) -> None:
    """Noise is drawn in every step; the scale is an input of the network."""
    pipe, _, model = written("lcm")
    seeded = torch.Generator().manual_seed
    theirs = pipe(
        PROMPTS, num_inference_steps=4, guidance_scale=SCALE, generator=seeded(3), output_type="latent"
    ).images
    ours = model.generate(PROMPTS, steps=4, guidance=SCALE, generator=seeded(3))
    assert close(ours.latents, theirs)
    assert ours.nfe.tolist() == [4, 4] and ours.recipes[0]["guidance"] == "Embedded(w=4.0)"


def test_classes(written: Any) -> None:
    pipe, _, model = written("dit")
    seeded = torch.Generator().manual_seed
    theirs = pipe([0, 7], num_inference_steps=3, guidance_scale=4.0, output_type="pt", generator=seeded(3)).images
    ours = model.generate(["tench", 7], steps=3, guidance=4.0, generator=seeded(3))
    assert close((model.decode(ours.latents) / 2 + 0.5).clamp(0, 1), theirs)
    again = model.generate([0, "cock"], steps=3, guidance=4.0, generator=seeded(3))
    assert torch.equal(ours.latents, again.latents)


def test_pixels(written: Any) -> None:
    pipe, _, model = written("pixels")
    seeded = torch.Generator().manual_seed
    theirs = torch.from_numpy(pipe(2, num_inference_steps=3, output_type="np", generator=seeded(3)).images)
    ours = model.generate(n=2, steps=3, generator=seeded(3))
    assert close((ours.latents / 2 + 0.5).clamp(0, 1), theirs.permute(0, 3, 1, 2))
    assert ours.images[0].size == (8, 8) and ours.images[0].mode == "RGB"


@pytest.mark.parametrize("name", list(pipelines.PIPELINES))
def test_save_and_load(name: str, written: Any, tmp_path: Path) -> None:
    """Our folder is read by us bit for bit, and by diffusers into its own pipeline."""
    pipe, _, model = written(name)
    again = suffuse.load(model.save_pretrained(tmp_path / "again"))
    assert again.fingerprint == model.fingerprint
    assert again.layout == model.layout
    assert repr(again.defaults) == repr(model.defaults)
    theirs = DiffusionPipeline.from_pretrained(tmp_path / "again")
    assert type(theirs) is type(pipe)
    for key, part in model.components.items():
        if isinstance(part, torch.nn.Module):
            other = getattr(theirs, key).state_dict()
            assert all(torch.equal(v, other[k]) for k, v in part.state_dict().items())


@pytest.mark.parametrize("name", list(pipelines.PIPELINES))
def test_to_diffusers_shares_modules(name: str, written: Any) -> None:
    pipe, _, model = written(name)
    theirs = model.to_diffusers()
    assert type(theirs) is type(pipe)
    assert all(getattr(theirs, key) is part for key, part in model.components.items())
    assert theirs.scheduler.config["num_train_timesteps"] == pipe.scheduler.config["num_train_timesteps"]
