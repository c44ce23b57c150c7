"""Recipe of the reader: rendered scenes, softened and disturbed as a decoder or a sampler would, and exact targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.cond import Cond
from ...core.noise import Noise
from ...evaluation import statistics
from ...training import AdamW, Batch, CosineDecay, Loss, Objective, Phase, Roles, Trainer
from ...world import frozen
from ...world.render import render
from ...world.scene import Scenes, WorldConfig, sample_scenes
from ..reader import Reader
from .building import Built, Figure, Recipe, Report, train

WORLD = WorldConfig(objects=(0.34, 0.36, 0.2, 0.1), equal=0.15, textured=0.5, spacing=0.88, held_out="free")
"""Denser than the world that models are trained on: closer objects, up to four, held-out combinations included."""

BLANK = 16
"""One picture in so many shows no object."""


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


def reader_loss(maps: Mapping[str, Tensor], ground: Tensor, scenes: Mapping[str, Tensor]) -> Tensor:
    """(B,) penalty-reduced focal loss of the heatmap, and near each centre cross-entropies and L1 of the place.

    The focal loss is equation 1 of "Objects as Points" with alpha 2 and beta 4. A row's share is such that the mean of
    all rows is the mean over the cells near centres.
    """
    rows, side = len(ground), maps["heat"].shape[2]
    axis = (torch.arange(side, device=ground.device) + 0.5)[None, None]
    dx = (scenes["x"] * side)[..., None] - axis
    dy = (scenes["y"] * side)[..., None] - axis
    present = scenes["present"][..., None, None]
    square = torch.where(present, dx.square()[:, :, None, :] + dy.square()[:, :, :, None], torch.inf)
    nearest, owner = square.min(1)
    target = torch.exp(-nearest / (2 * 0.8**2))
    at_centre = (dx.abs()[:, :, None, :] <= 0.5) & (dy.abs()[:, :, :, None] <= 0.5) & present
    hit = at_centre.any(1)
    heat = maps["heat"][:, 0]
    chance = heat.sigmoid()
    focal = torch.where(
        hit, (1 - chance).square() * -F.logsigmoid(heat), (1 - target) ** 4 * chance.square() * -F.logsigmoid(-heat)
    )
    loss = focal.sum((1, 2)) * rows / hit.sum().clamp(min=1)
    row, line, column = (nearest <= 0.9**2).nonzero(as_tuple=True)
    slot = owner[row, line, column]
    place = torch.stack([dx[row, slot, column], dy[row, slot, line], scenes["radius"][row, slot] * side], 1)
    near = (maps["place"][row, :, line, column] - place).abs().mean(1)
    for name, weight in (("shape", 1.0), ("colour", 1.0), ("texture", 1.0), ("size", 0.5)):
        read, true = maps[name][row, :, line, column], scenes[name][row, slot]
        near = near + weight * F.cross_entropy(read, true, reduction="none")
    loss = loss.index_add(0, row, near * rows / max(1, len(row)))
    return loss + 0.5 * F.cross_entropy(ground, scenes["background"], reduction="none")


@dataclass(frozen=True)
class Examples:
    """Batches of disturbed pictures, "rgb", and the scenes that they show by the names of `Scenes`."""

    size: int = 32
    seed: int = 0

    def __call__(self, step: int) -> Batch:
        rgb, scenes = example(self.size, self.seed, step)
        truth = {field.name: getattr(scenes, field.name) for field in fields(scenes)}
        return Batch({"rgb": rgb, "scenes": truth}, Cond(), torch.arange(self.size) + step * self.size)


@dataclass(frozen=True)
class ReadingScenes(Objective):
    """`reader_loss` of a reader on disturbed pictures."""

    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        maps, ground, _ = roles.model(batch.data["rgb"])
        maps = {name: part.float() for name, part in maps.items()}
        return Loss(reader_loss(maps, ground.float(), batch.data["scenes"]))


def build(
    folder: str | Path,
    steps: int = 2200,
    *,
    device: str = "cpu",
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    report: Report = print,
) -> Built:
    """Train a reader and write it to `folder`/reader/model; checkpoints in `folder`/reader/run are resumed."""
    folder = Path(folder) / "reader"
    torch.manual_seed(seed)
    optim = AdamW(lr=4e-3, weight_decay=1e-3, schedule=CosineDecay(warmup=round(0.08 * steps)))
    run = Trainer({"model": Reader().to(device)}, Phase(ReadingScenes(), optim=optim), seed=seed, precision="bf16")
    train(run, Examples(seed=seed), steps, "reader", folder / "run", shard=shard, report=report)
    reader = run.roles.model.cpu()
    assert isinstance(reader, Reader)
    reader.eval().save(folder / "model")
    return Built(folder / "model", run.step, run.seconds)


@torch.no_grad()
def measure(folder: Path, most: int | None = None) -> dict[str, Figure]:
    """What it reads right on rendered pictures of the frozen splits, untouched and disturbed as in training."""
    reader = Reader.load(folder)
    found: dict[str, Figure] = {}
    for split in ("validation", "held-out"):
        scenes = frozen(split)[0][:most]
        clean = render(scenes).rgb
        for name, rgb in ((split, clean), (f"{split} disturbed", disturb(clean, torch.Generator().manual_seed(0)))):
            found |= {f"{name}, {what}": Figure.share(share) for what, share in _read(reader, rgb, scenes).items()}
    return found


def _read(reader: Reader, rgb: Tensor, scenes: Scenes) -> dict[str, statistics.Estimate]:
    reading = reader.read(rgb)
    seen = {name: getattr(reading, name).argmax(-1) for name in ("shape", "colour", "texture", "size")}
    row, slot = scenes.present.nonzero(as_tuple=True)
    away = (reading.x[row] - scenes.x[row, slot][:, None]).abs() + (reading.y[row] - scenes.y[row, slot][:, None]).abs()
    near, which = torch.where(reading.present[row], away, torch.inf).min(1)
    right = {
        name: (found[row, which] == getattr(scenes, name)[row, slot]) & (near < 0.05) for name, found in seen.items()
    }
    hits = {
        "shape and colour of an object": right["shape"] & right["colour"],
        "texture of an object": right["texture"],
        "size of an object": right["size"],
        "count": reading.count == scenes.count,
        "background": reading.background.argmax(1) == scenes.background,
    }
    return {name: statistics.proportion(hit.numpy()) for name, hit in hits.items()}


RECIPE = Recipe(
    summary="Reads objects, attributes and positions back from a picture of the world: the judge",
    build=build,
    steps=2200,
    defaults={},
    measure=measure,
    protocol="frozen splits of the world, rendered, and the same disturbed as in training (seed 0); an object is read "
    "where one is seen within 0.05 of its place; 95 % Wilson intervals",
)
