"""The bundled `shapes` is an ordinary Stable Diffusion checkpoint: diffusers' own pipeline reads it and agrees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from torch import nn

import suffuse
from suffuse.core.model import Model
from suffuse.loading.sources import BUNDLED

PROMPTS = ["a red circle left of a blue square", "two green stars"]
RUN: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 3.0, "negative_prompt": "a yellow ring"}
ROUNDING = 1e-4
"""Largest difference that summing in another order makes; latents and pixels are of size 1."""


@pytest.fixture(scope="module")
def model() -> Model:
    return suffuse.load("shapes")


@pytest.fixture(scope="module")
def stock() -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED / "shapes", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def start() -> torch.Tensor:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))


def test_the_stock_pipeline_reads_every_weight(model: Model, stock: Any) -> None:
    assert type(stock) is StableDiffusionPipeline and stock.safety_checker is None
    for name, part in model.components.items():
        if isinstance(part, nn.Module):
            theirs = getattr(stock, name).state_dict()
            assert part.state_dict().keys() == theirs.keys()
            assert all(torch.equal(v, theirs[k]) and v.dtype == torch.float32 for k, v in part.state_dict().items())


def test_the_stock_pipeline_makes_the_same_pictures(model: Model, stock: Any, start: torch.Tensor) -> None:
    """Same latents, steps and guidance; the sampler and its times are those that the checkpoint names."""
    ours = model.generate(PROMPTS, latents=start, **RUN)
    theirs = stock(PROMPTS, latents=start, **RUN | {"negative_prompt": ["a yellow ring"] * 2}, output_type="latent")
    assert (ours.latents - theirs.images).abs().max() < ROUNDING
    pixels = stock(PROMPTS, latents=start, **RUN | {"negative_prompt": ["a yellow ring"] * 2}, output_type="pt").images
    assert ((model.decode(ours.latents) / 2 + 0.5).clamp(0, 1) - pixels).abs().max() < ROUNDING
    assert theirs.images.std() > 0.5


def test_the_way_back_to_diffusers(model: Model, stock: Any, start: torch.Tensor) -> None:
    back = model.to_diffusers()
    back.set_progress_bar_config(disable=True)
    run = {"num_inference_steps": 2, "latents": start[:1], "output_type": "latent"}
    assert torch.equal(back(PROMPTS[0], **run).images, stock(PROMPTS[0], **run).images)


def test_a_generator_gives_the_same_start(model: Model, stock: Any) -> None:
    run: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}
    theirs = stock(PROMPTS, generator=torch.Generator().manual_seed(5), output_type="latent", **run).images
    ours = model.generate(PROMPTS, generator=torch.Generator().manual_seed(5), **run).latents
    assert (ours - theirs).abs().max() < ROUNDING


def test_the_flow_model_in_the_stock_pipeline_of_stable_diffusion_3(start: torch.Tensor) -> None:
    pipe = StableDiffusion3Pipeline.from_pretrained(BUNDLED / "shapes-flow", text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    how: dict[str, Any] = {"latents": start[:1], "num_inference_steps": 2, "guidance_scale": 3.0}
    theirs = pipe(PROMPTS[0], **how, output_type="latent").images
    ours = suffuse.load("shapes-flow").generate(PROMPTS[0], **how).latents
    assert (ours - theirs).abs().max() < ROUNDING and theirs.std() > 0.5
    pictures = pipe(PROMPTS[0], **how, output_type="pt").images
    decoded = suffuse.load("shapes-flow").decode(ours).clamp(-1, 1) / 2 + 0.5
    assert (decoded - pictures).abs().max() < ROUNDING
