"""Recipe of the reader: rendered scenes, softened and disturbed as a decoder or a sampler would, and exact targets."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from suffuse.world.render import render
from suffuse.world.scene import Scenes, WorldConfig, sample_scenes
from suffuse.zoo.reader import Reader

WORLD = WorldConfig(objects=(0.34, 0.36, 0.2, 0.1), equal=0.15, textured=0.5, spacing=0.88, held_out="free")
"""Denser than the world that models are trained on: closer objects, up to four, held-out combinations included."""

BLANK = 16
"""One picture in so many shows no object."""


def train_reader(steps: int = 2200, batch: int = 32, seed: int = 0, threads: int = 1, peak: float = 4e-3) -> Reader:
    """Train a reader from scratch on the CPU: AdamW with linear warm-up and cosine decay from `peak`, in bfloat16."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    reader = Reader().train()
    optimiser = torch.optim.AdamW(reader.parameters(), lr=peak, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=0.08)
    for step in range(steps):
        rgb, scenes = example(batch, seed, step)
        with torch.autocast("cpu", torch.bfloat16):
            maps, ground, _ = reader(rgb)
        loss = reader_loss({name: part.float() for name, part in maps.items()}, ground.float(), scenes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    return reader.eval()


def example(batch: int, seed: int, step: int) -> tuple[Tensor, Scenes]:
    """Batch number `step`: disturbed pictures and the scenes that they show."""
    scenes = sample_scenes(batch, (3, seed, step), WORLD)
    scenes = replace(scenes, present=scenes.present & (torch.arange(batch) % BLANK > 0)[:, None])
    return disturb(render(scenes).rgb, torch.Generator().manual_seed(seed * 1_000_003 + step)), scenes


def disturb(rgb: Tensor, random: torch.Generator) -> Tensor:
    """Soften half of the pictures by resampling, then shift colours a little and add fine and blotchy noise."""
    n, _, high, wide = rgb.shape
    half = n // 2
    side = int(torch.randint(24, 56, (), generator=random))
    small = F.interpolate(rgb[:half], (side, side), mode="bilinear", antialias=True, align_corners=False)
    soft = F.interpolate(small, (high, wide), mode="bicubic", align_corners=False)
    rgb = torch.cat([soft, rgb[half:]])

    def noise(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=random)

    def strength(most: float) -> Tensor:
        return most * torch.rand(n, 1, 1, 1, generator=random).square()

    blotches = F.interpolate(noise(3, 16, 16), (high, wide), mode="bilinear", align_corners=False)
    rgb = rgb * (1 + 0.05 * noise(3, 1, 1)) + 0.03 * noise(3, 1, 1)
    return (rgb + strength(0.15) * noise(3, high, wide) + strength(0.2) * blotches).clamp(-1, 1)


def reader_loss(maps: dict[str, Tensor], ground: Tensor, scenes: Scenes) -> Tensor:
    """Penalty-reduced focal loss of the heatmap, and at the cells near each centre cross-entropies and L1 of the place.

    The focal loss is equation 1 of "Objects as Points" with alpha 2 and beta 4.
    """
    side = maps["heat"].shape[2]
    axis = (torch.arange(side) + 0.5)[None, None]
    dx = (scenes.x * side)[..., None] - axis
    dy = (scenes.y * side)[..., None] - axis
    square = dx.square()[:, :, None, :] + dy.square()[:, :, :, None]
    square = torch.where(scenes.present[..., None, None], square, torch.inf)
    nearest, owner = square.min(1)
    target = torch.exp(-nearest / (2 * 0.8**2))
    at_centre = (dx.abs()[:, :, None, :] <= 0.5) & (dy.abs()[:, :, :, None] <= 0.5) & scenes.present[..., None, None]
    hit = at_centre.any(1)
    heat = maps["heat"][:, 0]
    chance = heat.sigmoid()
    focal = torch.where(
        hit, (1 - chance).square() * -F.logsigmoid(heat), (1 - target) ** 4 * chance.square() * -F.logsigmoid(-heat)
    )
    loss = focal.sum() / hit.sum().clamp(min=1)
    row, line, column = (nearest <= 0.9**2).nonzero(as_tuple=True)
    slot = owner[row, line, column]
    for name, weight in (("shape", 1.0), ("colour", 1.0), ("texture", 1.0), ("size", 0.5)):
        loss = loss + weight * F.cross_entropy(maps[name][row, :, line, column], getattr(scenes, name)[row, slot])
    place = torch.stack([dx[row, slot, column], dy[row, slot, line], scenes.radius[row, slot] * side], 1)
    loss = loss + F.l1_loss(maps["place"][row, :, line, column], place)
    return loss + 0.5 * F.cross_entropy(ground, scenes.background)
