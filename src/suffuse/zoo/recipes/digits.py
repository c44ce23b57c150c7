"""`digits`: a class-conditional pixel model of scikit-learn's 8x8 handwritten digits, predicting noise."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
from torch import Tensor

from ...backbones.unet import PlainUNet
from ...core.cond import Cond
from ...core.denoiser import Network
from ...core.errors import BadInput
from ...core.prediction import EPS
from ...evaluation import statistics
from ...loading import load
from ...processes.tables import Table
from ...training import EMA, Batch, Phase, Trainer, WarmupDecay
from ...training.denoising import Denoising
from ...training.muon import Muon
from ...training.sources import permutation
from .building import Built, Figure, Recipe, Report, train
from .folder import half, write

CLASSES = 10
NULL = CLASSES
"""The label of no class in particular."""

TABLE = Table("linear", 1e-4, 0.02)

READ = 1200
"""True pictures from which the judge learns; the others test it."""


@lru_cache(maxsize=1)
def data() -> tuple[Tensor, Tensor]:
    """All 1797 pictures (N, 1, 8, 8) in [-1, 1] and their classes (N,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BadInput("digits: the pictures are those of scikit-learn; install suffuse[image]") from None

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
    report: Report = print,
) -> Built:
    """Train the model and write it to `folder`/digits/model; checkpoints in `folder`/digits/run are resumed."""
    folder = Path(folder) / "digits"
    run = trainer(seed, device)
    train(run, source, steps, "digits", folder / "run", shard=shard, report=report)
    export(run, folder / "model")
    return Built(folder / "model", run.step, run.seconds)


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


def measure(folder: Path, most: int | None = None) -> dict[str, Figure]:
    """What share of the pictures shows the class that was asked for, as a support vector machine reads them."""
    from sklearn.svm import SVC

    pixels, labels = (v.flatten(1).numpy() if v.ndim > 1 else v.numpy() for v in data())
    judge = SVC(gamma=0.02, C=10).fit(pixels[:READ], labels[:READ])
    right = judge.predict(pixels[READ:]) == labels[READ:]
    found = {f"judge on {len(right)} true pictures": Figure.share(statistics.proportion(right))}
    model, samples = load(folder), range(0, 50 * CLASSES, max(1, 50 * CLASSES // (most or 50 * CLASSES)))
    asked = [k // 50 for k in samples]
    for w in (1.0, 2.0):
        made = model.generate(asked, steps=25, guidance=w, seed=0, samples=samples).latents.flatten(1).numpy()
        found[f"class as asked, guidance {w:g}"] = Figure.share(statistics.proportion(judge.predict(made) == asked))
    return found


RECIPE = Recipe(
    summary="Class-conditional pixel model of scikit-learn's 8x8 digits",
    build=build,
    steps=1500,
    defaults={"steps": 25, "guidance": "CFG(2)"},
    measure=measure,
    protocol="50 pictures of each class, 25 steps, seed 0, default sampler, read by a support vector machine (RBF, "
    "gamma 0.02, C 10) trained on the first 1200 true pictures; 95 % Wilson intervals",
)
