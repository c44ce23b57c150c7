"""A control branch that reads edges, trained here, and whether edits under it keep to what was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from suffuse.core.model import Model
from suffuse.core.training import Batch, Phase
from suffuse.editing import SPICE, EditSession, Stage, canny
from suffuse.layout import ControlNet
from suffuse.training.denoising import Denoising, UniformTimes
from suffuse.training.optimisers import AdamW
from suffuse.training.trainer import Trainer
from suffuse.world import COLOURS, SHAPES, Caption, Phrase, WorldConfig, describe, render, sample_scenes

PICTURES, STEPS, ROWS, RATE, LOW, HIGH = 2048, 1200, 16, 1e-3, 60.0, 120.0
"""Of the branch's training, and thresholds of the edges."""

TIMES, DROPOUT = UniformTimes(0.5, 1.0), 0.5
"""The branch acts where there is much noise alone; half of the captions are left out, so that it learns to see."""

PAINT = {
    "red": (0.9, -0.7, -0.7), "green": (-0.7, 0.4, -0.5), "blue": (-0.7, -0.3, 0.9), "yellow": (0.9, 0.7, -0.7),
    "purple": (0.2, -0.6, 0.6), "orange": (0.9, 0.1, -0.8), "cyan": (-0.7, 0.6, 0.7), "pink": (0.9, 0.0, 0.4),
}  # fmt: skip
"""Colours that a user picks for hints, in [-1, 1]."""

GREY, AWAY, ALIKE = 0.2, 0.3, 0.6
"""The canvas; a pixel's largest difference from it that still is canvas; overlap (IoU) from which a hint is obeyed."""


def edges(pixels: Tensor) -> Mapping[str, Tensor]:
    """What the branch reads of a picture."""
    return {"control": canny(pixels, LOW, HIGH)}


def edge_control(loaded: Model, seed: int) -> Stage:
    """The model with a branch trained on edges of pictures of the world."""
    scenes = sample_scenes(PICTURES, (seed, 60))
    pixels = render(scenes).rgb
    with torch.no_grad():
        x0 = torch.cat([loaded.encode(part) for part in pixels.split(32)])
    cond = loaded.condition([str(caption) for caption in describe(scenes, seed)]) | edges(pixels)

    def batch(step: int) -> Batch:
        rows = torch.randperm(PICTURES, generator=torch.Generator().manual_seed(step))[:ROWS]
        return Batch(x0[rows], cond[rows], rows)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        branch = ControlNet(widths=(16, 32, 64)).on(loaded.denoiser)
    phase = Phase(Denoising(times=TIMES, dropout=DROPOUT), trains="branch", optim=AdamW(RATE))
    for _ in Trainer({"model": loaded.denoiser.with_(branch), "branch": branch}, phase, seed=seed).fit(batch, STEPS):
        pass
    return Stage(loaded.denoiser.with_(branch.eval()), sees=edges)


def obeyed(loaded: Model, control: Stage | None, n: int, seed: int, **how: Any) -> list[bool]:
    """Whether what SPICE makes of n silhouettes, drawn on a grey canvas, lies where they were drawn."""
    scenes = sample_scenes(n, (seed, 61), WorldConfig(objects=(1.0,)))
    masks = render(scenes, maps=("masks",)).masks
    assert masks is not None
    found = []
    for k, drawn in enumerate(masks[:, 0] > 0.5):
        colour, shape = COLOURS[int(scenes.colour[k, 0])], SHAPES[int(scenes.shape[k, 0])]
        canvas = torch.full((1, 3, *drawn.shape), GREY)
        hint = torch.where(drawn, torch.tensor(PAINT[colour])[:, None, None], canvas)
        caption = str(Caption((Phrase(shape, colour),), background="grey"))
        made = EditSession.of(canvas).do(SPICE(caption, seed=k, **how), loaded, _around(drawn), hint, control).pixels
        there = (made - canvas).abs().amax(1)[0] > AWAY
        found.append(bool((there & drawn).sum() >= ALIKE * (there | drawn).sum()))
    return found


def _around(drawn: Tensor) -> Tensor:
    """(1, 1, H, W): a disc half as large again as the silhouette, and dots at two corners: the crop is whole."""
    y, x = torch.meshgrid(*map(torch.arange, drawn.shape), indexing="ij")
    distance = ((x - x[drawn].float().mean()) ** 2 + (y - y[drawn].float().mean()) ** 2).sqrt()
    mask = (distance <= 1.5 * distance[drawn].max()).float()
    mask[:2, :2] = mask[-2:, -2:] = 1.0
    return mask[None, None]
