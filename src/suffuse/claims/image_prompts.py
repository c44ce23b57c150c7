"""An image prompt of the bundled model, trained as that of DiffEditor: what the reader sees, resampled to tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import Tensor, nn

from suffuse.core.model import Model
from suffuse.core.noise import Noise
from suffuse.core.training import Batch, Loss, Objective, Phase, Roles
from suffuse.evaluation.features import load_reader
from suffuse.images import to_tensor
from suffuse.personalization import ImagePrompt, IPAdapter
from suffuse.training import Muon, Shuffled, Trainer, WarmupDecay
from suffuse.world import Caption, WorldConfig, batch
from suffuse.zoo.recipes.shapes import OBJECTIVE

from .sizes import emphasised

SCENES, BATCH, STEPS = 2048, 16, 1500
WORLD = WorldConfig(objects=(0.6, 0.4), equal=0.0, textured=0.7)
"""Scenes to train on, rows of a batch, steps, and where the scenes are from."""


@dataclass(frozen=True, eq=False)
class SeenTokens:
    """Pictures to tokens: the reader's last map of features, and a resampler.

    Args:
        resampler: of cells (B, n, channels) to tokens.
    """

    resampler: nn.Module

    def __call__(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, width) tokens of pictures, and those of a grey one."""
        reader, pixels = load_reader(None)[0].eval(), to_tensor(pictures)
        with torch.no_grad():
            seen = [reader.trunk(v).flatten(2).mT for v in (pixels, torch.zeros_like(pixels[:1]))]
        said, none = map(self.resampler, seen)
        return said, none.expand_as(said)


@dataclass(frozen=True)
class Shown(Objective):
    """The model's own loss with tokens of the pictures, "rgb" of the data; a row without text has those of none."""

    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        said, none = SeenTokens(roles.resampler)(batch.data["rgb"].float())
        null = batch.cond.alt["null"] | {"image_prompt": none}
        cond = (batch.cond | {"image_prompt": said}).with_alt(null=null)
        return OBJECTIVE(roles, replace(batch, cond=cond), noise, parts)


def untold(caption: Caption) -> str:
    """A caption that names no texture."""
    return str(replace(caption, phrases=tuple(replace(p, texture=None) for p in caption.phrases)))


def trained(loaded: Model, seed: int) -> tuple[IPAdapter, list[float]]:
    """The image prompt, from scenes whose captions name no texture, and the loss of each step: about ten minutes."""
    views, captions = batch("train", 2, SCENES, seed=seed + 100, config=WORLD, maps=("masks",))
    assert views.masks is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x0 = torch.cat([loaded.encode(part).float() for part in views.rgb.split(64)])
    data = {**emphasised(x0, views.masks), "rgb": views.rgb.half()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        resampler = IPAdapterPlusImageProjection(
            embed_dims=64, output_dims=128, hidden_dims=128, depth=4, dim_head=32, heads=4, num_queries=16
        )
        prompt = ImagePrompt().on(loaded.denoiser)
    roles = {"model": loaded.denoiser.with_(prompt), "prompt": prompt, "resampler": resampler}
    phase = Phase(Shown(), trains=("prompt", "resampler"), optim=Muon(lr=2e-3, schedule=WarmupDecay(50, 0.4)))
    source = Shuffled(data, loaded.condition([untold(c) for c in captions]), BATCH, seed)
    run = Trainer(roles, phase, seed=seed, precision="bf16")
    losses = [log.losses["prompt+resampler"] for log in run.fit(source, STEPS)]
    for part in (resampler, prompt):
        part.eval().requires_grad_(False)
    return IPAdapter(SeenTokens(resampler), prompt), losses
