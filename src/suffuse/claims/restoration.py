"""Claims of restoration methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor

from suffuse.backbones.unet import PlainUNet
from suffuse.codecs import PixelUnshuffle
from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.law import Law
from suffuse.core.prediction import EPS, X0, Kind
from suffuse.core.process import Gaussian
from suffuse.core.sampler import Ask, Sampler
from suffuse.core.step import Step
from suffuse.core.training import Batch, Phase
from suffuse.core.value import Coef, Value
from suffuse.evaluation import statistics
from suffuse.evaluation.diversity import HighFrequencyShare
from suffuse.evaluation.image import PSNR
from suffuse.evaluation.pictures import Pictures
from suffuse.evaluation.reader_distance import ReaderDistance
from suffuse.evaluation.scores import Scored
from suffuse.evaluation.statistics import Estimate
from suffuse.processes.tables import Table as Betas
from suffuse.restoration import Bicubic, Pairs, ResShift, Restorer
from suffuse.restoration.degradation import enlarge
from suffuse.samplers.ancestral import DDIM, DDPM
from suffuse.training.denoising import Denoising
from suffuse.training.followers import EMA
from suffuse.training.muon import Muon
from suffuse.training.optimisers import WarmupDecay
from suffuse.training.trainer import Trainer
from suffuse.world import WorldConfig, batch, frozen, render

from .claim import Cell, Figure, Table, at_least, at_most, claim
from .exact_restoration import DIAL, dials

STEPS, BATCH, CROP, FACTOR = 500, 16, 32, 4
N = 256
SOME, MUCH = (ResShift(kappa, m=0.04, T=15) for kappa in (0.5, 8.0))
METRICS: Mapping[str, Scored] = {"PSNR": PSNR(), "RFD": ReaderDistance(), "sharpness": HighFrequencyShare()}
CODEC = PixelUnshuffle(2)
TABLE = Betas("linear", 1e-4, 0.02)


@dataclass(frozen=True)
class Clipped(DDIM):
    """DDIM whose clean pictures are kept in [-1, 1], as is usual with DDPMs of pixels."""

    def step(self, predict: Ask, x: Value, at: Step, memory: Any) -> tuple[Value | Law, Any]:
        def clipped(x: Value, t: Coef) -> Any:
            p = predict(x, t)
            return p.with_(x0=p.x0.clamp(-1, 1))

        return super().step(clipped, x, at, memory)


@claim(
    paper="resshift",
    expect={
        "PSNR gain over DDPM, dB": at_least(1.0),
        "RFD / DDPM": at_most(0.95),
        "PSNR gain over DDPM of x0, dB": at_least(0.0),
        "RFD / DDPM of x0": at_most(1.0),
        "exact: largest change of error as p rises": at_most(0.0),
        "exact: largest change of spread as p rises": at_most(0.0),
        "exact: change of error from 15 to 4 steps": at_most(0.0),
        "exact: change of spread from 15 to 4 steps": at_most(0.0),
        "exact: change of spread from kappa 1/8 to 2": at_least(0.0),
        "exact: change of spread from kappa 2 to 8": at_most(0.0),
        "change of PSNR from 4 to 15 steps, dB": at_most(0.0),
        "change of sharpness from 4 to 15 steps": at_least(0.0),
        "change of sharpness from kappa 1/2 to 8": at_most(0.0),
    },
    budget=1000,
)
def resshift(seed: int) -> Table:
    """ResShift in 4 steps against a conditional DDPM in 4 DDIM steps, and its dials, on pictures of the small world.

    Super-resolution by 4 after bicubic reduction, 256 validation pictures of 64 px. All arms have the same UNet of
    0.6 M parameters on squares of 2 x 2 pixels, and 500 training steps on 16 crops of 32 px of scenes of three objects,
    with the same data and noise. PSNR, distance in the reader's features (RFD), and as sharpness the share of a
    picture's energy at high frequencies. The DDPM predicts the noise; as most of that gap is the kind of prediction, a
    DDPM that predicts the clean picture, as ResShift does, is judged beside it.

    Dials, after the paper's section "Model Analysis", in the first version of 15 steps. p and the number of steps trade
    fidelity for realism: error and detail fall with p, and with fewer steps; too much noise and too little both smooth
    the picture. (Our summary of the paper had kappa for this dial, and sharpness rise with it.) Exact: on 1024 patches
    of 8 px from a law that is known, told by their averages over 4 px with noise, so that the network is exact. Error
    and spread over noises are in units of the posterior's variance: the best guess has 1 and 0, a true sample 2 and 1.

    The networks trained here show the steps and a large kappa; in p they do the reverse, which is among the figures. A
    large p has few steps of high noise, where the picture is decided, and its network sees them in few of its batches:
    on other pictures p = 3 gave 2.6 dB less than p = 0.3 after 2000 steps of training, 0.6 dB less after 5000 of which
    4000 were on p = 0.3.
    """
    clean = render(frozen("validation")[0][:N]).rgb
    low = torch.nn.functional.interpolate(clean, scale_factor=1 / FACTOR, mode="bicubic", antialias=True)
    arms: dict[str, tuple[Gaussian, Kind, Sampler]] = {
        **{str(p): (p, X0, DDPM()) for p in (ResShift(), *DIAL.values(), SOME, MUCH)},
        "DDPM": (TABLE, EPS, Clipped()),
        "DDPM of x0": (TABLE, X0, Clipped()),
    }
    made = {name: _restored(low, *arm, seed) for name, arm in arms.items()}
    made["bicubic"] = enlarge(low, FACTOR)
    scores = {name: _scores(pictures, clean) for name, pictures in made.items()}
    rows: list[Mapping[str, Cell]] = [
        {"network": "trained", "arm": name, **{metric: statistics.mean(values) for metric, values in found.items()}}
        for name, found in scores.items()
    ]

    def change(metric: str, before: ResShift, after: ResShift) -> Estimate:
        return statistics.difference(scores[str(after)][metric], scores[str(before)][metric])

    rises, exact = list(pairwise(DIAL.values())), dials(seed)
    figures: dict[str, Figure] = {
        **exact.figures,
        "trained: smallest change of PSNR as p rises, dB": min(
            (change("PSNR", *r) for r in rises), key=lambda c: c.mean
        ),
        "change of PSNR from 4 to 15 steps, dB": change("PSNR", ResShift(), DIAL[0.3]),
        "change of sharpness from 4 to 15 steps": change("sharpness", ResShift(), DIAL[0.3]),
        "change of sharpness from kappa 1/2 to 8": change("sharpness", SOME, MUCH),
        "sharpness of the true pictures": statistics.mean(HighFrequencyShare().score(Pictures(clean)).numpy()),
        "deviation of the residual": statistics.mean((made["bicubic"] - clean).square().mean((1, 2, 3)).sqrt().numpy()),
    }
    best = scores[str(ResShift())]
    for name in ("DDPM", "DDPM of x0"):
        base = scores[name]
        figures[f"PSNR gain over {name}, dB"] = statistics.difference(best["PSNR"], base["PSNR"])
        figures[f"RFD / {name}"] = statistics.ratio(best["RFD"], base["RFD"])
    return Table([*rows, *exact.rows], figures)


def _scores(pictures: Tensor, clean: Tensor) -> dict[str, np.ndarray]:
    pair = Pictures(pictures, references=clean)
    return {name: metric.score(pair).double().numpy() for name, metric in METRICS.items()}


def _restored(low: Tensor, process: Gaussian, kind: Kind, sampler: Sampler, seed: int) -> Tensor:
    """Low-resolution pictures, enlarged by a network that is trained here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Network(_network(), PlainUNet(), process, kind)
    phase = Phase(Denoising(), optim=Muon(2e-3, schedule=WarmupDecay(50, 0.5)))
    trainer = Trainer({"model": model}, phase, {"ema": EMA(decay=0.99)}, seed=seed)
    for _ in trainer.fit(Pairs(partial(_crops, seed), Bicubic(FACTOR), CODEC), STEPS):
        pass
    trained = trainer.roles.ema.eval()
    assert isinstance(trained, Network)
    steps = process.T if isinstance(process, ResShift) else 4
    restorer = Restorer(trained, CODEC, scale=FACTOR, sampler=sampler, steps=steps)
    parts = [restorer(low[rows], noise=seed, samples=rows.tolist()) for rows in torch.arange(len(low)).split(32)]
    return torch.cat(parts)


def _network() -> UNet2DModel:
    return UNet2DModel(
        in_channels=2 * CODEC.space.channels,
        out_channels=CODEC.space.channels,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=False,
    )


def _crops(seed: int, step: int) -> Batch:
    """One random crop of each of some fresh pictures."""
    views, _ = batch("train", step, BATCH, seed=seed, config=WorldConfig(objects=(0.0, 0.0, 1.0)))
    generator = torch.Generator().manual_seed(seed * 1_000_000 + step)
    corners = torch.randint(views.rgb.shape[-1] - CROP + 1, (BATCH, 2), generator=generator)
    cut = [rgb[:, t : t + CROP, x : x + CROP] for rgb, (t, x) in zip(views.rgb, corners.tolist(), strict=True)]
    return Batch(torch.stack(cut), Cond(), step * BATCH + torch.arange(BATCH))
