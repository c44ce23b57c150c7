"""`digits`: a class-conditional pixel model of scikit-learn's 8x8 handwritten digits, predicting noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
from torch import Tensor

from ...backbones.unet import PlainUNet
from ...core.cond import Cond
from ...core.denoiser import Network
from ...core.prediction import EPS
from ...processes.tables import Table
from ...training import EMA, Batch, Log, Phase, Trainer, WarmupDecay
from ...training.denoising import Denoising
from ...training.muon import Muon
from ...training.sources import permutation
from .folder import half, write

CLASSES = 10
NULL = CLASSES
"""The label of no class in particular."""

TABLE = Table("linear", 1e-4, 0.02)


@lru_cache(maxsize=1)
def data() -> tuple[Tensor, Tensor]:
    """All 1797 pictures (N, 1, 8, 8) in [-1, 1] and their classes (N,)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(found.images).float()[:, None] / 8 - 1
    return pixels, torch.from_numpy(found.target).long()


def network() -> UNet2DModel:
    """The untrained network: 0.6 M parameters, eleven classes with the null class."""
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=16,
        norm_num_groups=8,
        num_class_embeds=CLASSES + 1,
    )


def source(step: int, size: int = 64) -> Batch:
    """Batches in a new order every epoch."""
    pixels, labels = data()
    epoch, i = divmod(step, len(pixels) // size)
    rows = permutation(0, epoch, len(pixels))[i * size : (i + 1) * size]
    null = Cond({"label": torch.full((size,), NULL)})
    return Batch(pixels[rows], Cond({"label": labels[rows]}, {"null": null}), rows)


def trainer(seed: int = 0, device: str = "cpu") -> Trainer:
    """Everything about the run but its length."""
    torch.manual_seed(seed)
    model = Network(network().to(device), PlainUNet(), TABLE, EPS)
    phase = Phase(Denoising(dropout=0.15), optim=Muon(lr=2e-3, schedule=WarmupDecay(warmup=50, decay=0.5)))
    return Trainer({"model": model}, phase, {"ema": EMA(decay=0.998)}, seed=seed)


def build(
    folder: str | Path,
    steps: int = 1500,
    *,
    device: str = "cpu",
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    report: Callable[[Log], None] = print,
) -> None:
    """Train the model and write it to `folder`/digits/model; checkpoints in `folder`/digits/run are resumed."""
    folder = Path(folder) / "digits"
    run = trainer(seed, device)
    for log in run.fit(source, steps, shard=shard, folder=folder / "run", save_every=500):
        report(log)
    export(run, folder / "model")


def export(run: Trainer, folder: str | Path) -> None:
    """Write the averaged weights in diffusers' layout."""
    ema = run.roles.ema
    assert isinstance(ema, Network)
    unet = network()
    unet.load_state_dict(ema.net.state_dict())
    scheduler = DDIMScheduler(
        beta_schedule=TABLE.schedule,
        beta_start=TABLE.beta_start,
        beta_end=TABLE.beta_end,
        clip_sample=False,
        timestep_spacing="trailing",
    )
    write(DDPMPipeline(unet=half(unet), scheduler=scheduler), folder)
