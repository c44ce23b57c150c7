"""The autoencoder of the bundled models: 64x64 pictures and maps to 16x16 latents of 4 channels, unit variance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ...core.cond import Cond
from ...core.noise import Noise
from ...evaluation import statistics
from ...training import EMA, Batch, Loss, Objective, Phase, Roles, Trainer, WarmupDecay
from ...training.muon import Muon
from ...world import Views, batch
from ...world.scene import generator
from .building import Built, Figure, Recipe, Report, train

MAPS = ("depth", "normal", "edges")


def network() -> AutoencoderKL:
    """The untrained network: 0.8 M parameters, wide where it draws pixels; its posterior is sharp from the start.

    With a posterior of unit variance, as a fresh network has it, most channels drown in noise and stay unused for long.
    """
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        shift_factor=0.0,  # which the pipeline of Stable Diffusion 3 adds
    )
    with torch.no_grad():
        vae.quant_conv.weight[4:] *= 0.1
        vae.quant_conv.bias[4:] = -6.0
    return vae


def picture(views: Views, name: str) -> Tensor:
    """A map of a scene as a picture in [-1, 1], (B, 3, H, W)."""
    if name == "rgb":
        return views.rgb
    pixels = getattr(views, name)
    return pixels if name == "normal" else (2 * pixels - 1).expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class Pictures:
    """Batches of crops around objects, every fourth one of fewer whole pictures; some rows show a map of the scene.

    Args:
        size: crops in a batch; whole pictures are a quarter as many.
        seed: of the scenes.
        mapped: share of rows that show depth, normals or edges.
        side: of a crop in pixels.
    """

    size: int = 16
    seed: int = 0
    mapped: float = 0.2
    side: int = 32

    def __call__(self, step: int) -> Batch:
        whole = step % 4 == 3
        n = self.size // 4 if whole else self.size
        views, _ = batch("train", step, n, maps=MAPS, seed=self.seed)
        random = generator(self.seed, step, 7)
        pixels = views.rgb.clone()
        for row, (chance, which) in enumerate(zip(random.random(n), random.integers(len(MAPS), size=n), strict=True)):
            if chance < self.mapped:
                pixels[row] = picture(views, MAPS[which])[row]
        if not whole:
            pixels = self._crop(pixels, views, random.random(n), random.integers(-10, 11, size=(n, 2)))
        return Batch(pixels, Cond(), torch.arange(n) + step * self.size)

    def _crop(self, pixels: Tensor, views: Views, chance: np.ndarray, shift: np.ndarray) -> Tensor:
        n, _, height, width = pixels.shape
        scenes, rows = views.scenes, torch.arange(n)
        chosen = (torch.from_numpy(chance) * scenes.count).long()
        left = (scenes.x[rows, chosen] * width).long() - self.side // 2 + torch.from_numpy(shift[:, 0])
        top = (scenes.y[rows, chosen] * height).long() - self.side // 2 + torch.from_numpy(shift[:, 1])
        x = left.clamp(0, width - self.side)[:, None] + torch.arange(self.side)
        y = top.clamp(0, height - self.side)[:, None] + torch.arange(self.side)
        return pixels[
            rows[:, None, None, None], torch.arange(3)[:, None, None], y[:, None, :, None], x[:, None, None, :]
        ]


@dataclass(frozen=True)
class Autoencoding(Objective):
    """L1 of pixels, L1 of their differences, and a little KL divergence to N(0, 1) that keeps the latents smooth.

    |x - D(z)| + g (|dx (x - D(z))| + |dy (x - D(z))|) + b KL(q(z | x) || N(0, 1)),  z ~ q(z | x)

    Args:
        gradient: g.
        divergence: b.
    """

    gradient: float = 0.25
    divergence: float = 1e-5

    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        x = batch.data
        posterior = roles.model.encode(x).latent_dist
        z = posterior.mean + posterior.std * noise.normal(posterior.mean, batch.ids.tolist(), "posterior")
        error = roles.model.decode(z).sample - x
        pixel = error.abs().mean((1, 2, 3))
        slope = error.diff(dim=2).abs().mean((1, 2, 3)) + error.diff(dim=3).abs().mean((1, 2, 3))
        divergence = posterior.kl() / z[0].numel()
        squared = error.detach().square().mean((1, 2, 3))
        total = pixel + self.gradient * slope + self.divergence * divergence
        return Loss(total, {"pixel": pixel, "slope": slope, "kl": divergence, "squared": squared})


@torch.no_grad()
def normalise(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Fold the latents' mean and scale into the 1x1 convolutions around them: every channel has mean 0, variance 1."""
    z = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(64)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    out.bias += (out.weight[:, :, 0, 0] @ mean[:, None]).flatten()
    out.weight *= std[None, :, None, None]
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()


@torch.no_grad()
def psnr(vae: AutoencoderKL, name: str = "rgb", pictures: int = 512) -> Figure:
    """Mean PSNR of reconstructions of the validation split, of one kind of picture, peak 2."""
    found = []
    for start in range(0, pictures, 64):
        x = picture(batch("validation", start // 64, 64, maps=MAPS)[0], name)[: pictures - start]
        error = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1) - x
        found.append(10 * torch.log10(4 / error.square().mean((1, 2, 3))))
    return Figure(statistics.mean(torch.cat(found).numpy()), "dB")


def build(
    folder: str | Path,
    steps: int = 1700,
    *,
    device: str = "cpu",
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    report: Report = print,
) -> Built:
    """Train the autoencoder and write it to `folder`/vae/vae; checkpoints in `folder`/vae/run are resumed."""
    folder = Path(folder) / "vae"
    torch.manual_seed(seed)
    schedule = WarmupDecay(warmup=20, decay=0.5)
    trainer = Trainer(
        {"model": network().to(device)},
        Phase(Autoencoding(), optim=Muon(lr=2e-3, schedule=schedule)),
        {"ema": EMA(decay=0.995)},
        seed=seed,
    )
    run = folder / "run"
    train(trainer, Pictures(seed=seed), steps, "vae", run, shard=shard, save_every=250, report=report)
    vae = trainer.roles.ema.cpu()
    assert isinstance(vae, AutoencoderKL)
    normalise(vae, batch("train", 0, 2048, seed=seed + 1)[0].rgb)
    vae.save_pretrained(folder / "vae")
    return Built(folder / "vae", trainer.step, trainer.seconds)


def measure(folder: Path, most: int | None = None) -> dict[str, Figure]:
    """PSNR of every kind of picture that the autoencoder in a folder has seen."""
    vae = AutoencoderKL.from_pretrained(folder).eval()
    return {f"autoencoder, PSNR of {name}": psnr(vae, name, most or 512) for name in ("rgb", *MAPS)}


RECIPE = Recipe(
    summary="Autoencoder of the text-to-image models: 64x64 pictures and maps to 16x16 latents",
    build=build,
    steps=1700,
    defaults={},
    measure=measure,
    protocol="mean over the first 512 validation pictures, peak 2; 95 % bootstrap intervals",
)
