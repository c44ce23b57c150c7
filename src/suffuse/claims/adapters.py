"""Claims of adapters."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffuse.adapters.delta import Delta
from suffuse.adapters.direct import IA3, FullWeight, Norms
from suffuse.adapters.lora import DyLoRA, GLoRA, LoRA
from suffuse.adapters.merging import bake
from suffuse.adapters.orthogonal import BOFT, DiagOFT
from suffuse.adapters.products import LoHa, LoKr
from suffuse.adapters.reading import load_adapters
from suffuse.adapters.report import AdapterReport, Figures, Trial, size
from suffuse.adapters.writing import save_adapters
from suffuse.core.cond import Cond
from suffuse.core.denoiser import Denoiser
from suffuse.core.engine import sample
from suffuse.core.expression import unparse
from suffuse.core.metric import Estimate
from suffuse.core.model import Model
from suffuse.core.patch import Adapter
from suffuse.core.value import Coef
from suffuse.evaluation import statistics
from suffuse.evaluation.diversity import VendiScore
from suffuse.evaluation.features import ReaderFeatures
from suffuse.evaluation.pictures import Pictures
from suffuse.evaluation.reader_accuracy import ReaderAccuracy
from suffuse.evaluation.report import evaluate
from suffuse.guidance.cfg import CFG
from suffuse.samplers.ancestral import DDIM
from suffuse.training import AdamW, Denoising, Phase, Shuffled, Trainer
from suffuse.world import Caption, WorldConfig, batch

from . import microworld as mw
from .claim import Cell, Figure, Table, at_least, at_most, between, claim

STEPS, BATCH, TRAINED, TESTED, DRAWN = 60, 8, 64, 64, 16
WORD = "checkered"
TRIALS = [
    Trial(LoRA(8, where="full"), 4e-3, 1),
    Trial(LoRA(8, where="full", decompose=True), 4e-3, 1),
    Trial(DyLoRA(8, where="full"), 4e-3, 1),
    Trial(GLoRA(8, where="full"), 2e-3, 1),
    Trial(LoHa(4, where="full"), 1e-2, 1),
    Trial(LoKr(8, where="full"), 4e-3, 1),
    Trial(LoKr(100000, factor=4, where="full"), 2e-3, 1),
    Trial(DiagOFT(8, where="full"), 2e-3, 1),
    Trial(BOFT(8, where="full"), 5e-4, 1),
    Trial(IA3(where="full"), 2e-2, 1),
    Trial(Norms(), 1e-2, 1),
    Trial(FullWeight(where="full"), 1e-3, 1),
]
FINE_TUNING = (3e-4, 1e-3)
"""Learning rates of full fine-tuning; the better one counts."""
BETTER = {"gap closed": 1, "fidelity": 1, "agreement": 1, "diversity": 1, "rise of old loss": -1, "MB": -1}


@dataclass(frozen=True, eq=False)
class Set:
    """Pictures as states with their conditions."""

    pixels: Tensor
    x0: Tensor
    cond: Cond
    captions: list[Caption]


@claim(
    paper="lycoris",
    expect={
        "merging error": at_most(1e-5),
        "reloading error": at_most(1e-5),
        "rank of LoHa(4)": between(16, 16),
        "least share of the fine-tuning gap": at_least(0.3),
    },
    budget=900,
)
def lycoris(seed: int) -> Table:
    """Every adapter of LyCORIS on `shapes`, 60 steps of 8 pictures on a texture that it has never seen (objects under a
    checkerboard, captions that begin with a new word): share of the fall in loss that full fine-tuning reaches in as
    many steps, on 64 other pictures at fixed times and noise; and the report, ranked: fidelity (cosine of the reader's
    features to the true pictures), agreement (objects right in shape and colour), diversity (Vendi score), rise of the
    loss on ordinary pictures, size. Errors of merging and of reloading are of the prediction, relative to its largest
    entry, the worst of all adapters.
    """
    loaded = mw.model()
    trained, tested = _set(loaded, 0, TRAINED), _set(loaded, 1, TESTED)
    old = _set(loaded, 2, TESTED, plain=True)
    base, old_loss = _loss(loaded.denoiser, tested), _loss(loaded.denoiser, old).mean()
    tuned = min((_fine_tuned(loaded, trained, tested, lr, seed) for lr in FINE_TUNING), key=lambda loss: loss.mean())
    errors: dict[str, list[float]] = {"merging error": [], "reloading error": []}
    shares: dict[Trial, Estimate] = {}

    def run(trial: Trial) -> Figures:
        adapter, seconds = _trained(loaded, trained, trial, seed)
        view = loaded.denoiser.with_(adapter)
        loss = _loss(view, tested)
        shares[trial] = statistics.bootstrap(_share, base, loss, tuned)
        for name, error in _errors(loaded, adapter, tested).items():
            errors[name].append(error)
        rise = float(_loss(view, old).mean() / old_loss - 1.0)
        figures = {
            "gap closed": _share(base, loss, tuned),
            **_quality(loaded, view, tested, seed),
            "rise of old loss": rise,
        }
        return {**figures, **size(adapter), "seconds": seconds}

    report = AdapterReport.run(TRIALS, run, BETTER)
    ranks = report.ranks()
    rows: list[Mapping[str, Cell]] = [
        {
            "adapter": unparse(t.delta),
            "lr": t.lr,
            **figures,
            "gap closed": shares[t],
            "mean rank": float(np.mean([*ranks[t].values()])),
        }
        for t, figures in report.rows.items()
    ]
    least = min(TRIALS, key=lambda t: report.rows[t]["gap closed"])
    figures: dict[str, Figure] = {
        "merging error": max(errors["merging error"]),
        "reloading error": max(errors["reloading error"]),
        "rank of LoHa(4)": float(_rank_of_loha(seed)),
        "least share of the fine-tuning gap": shares[least],
    }
    return Table(rows, figures)


def _set(loaded: Model, index: int, n: int, plain: bool = False) -> Set:
    """Pictures of the world, the objects under a checkerboard and the captions with a new word unless `plain`."""
    views, captions = batch("train", index, n, maps=("masks",), config=WorldConfig(objects=(0.6, 0.4)))
    pixels, texts = views.rgb, [str(c) for c in captions]
    if not plain:
        place = torch.arange(pixels.shape[-1]) // 8
        board = (place[:, None] + place) % 2
        objects = views.masks.sum(1, keepdim=True).clamp(max=1.0)  # type: ignore[union-attr]
        pixels, texts = torch.lerp(pixels, -torch.ones(()), 0.6 * objects * board), [f"{WORD} {text}" for text in texts]
    return Set(pixels, loaded.encode(pixels), loaded.condition(texts), list(captions))


@torch.no_grad()
def _loss(denoiser: Denoiser, data: Set) -> np.ndarray:
    """(n,) squared error of the network's output at fixed times and noise."""
    n, process = len(data.x0), denoiser.process
    eps = torch.randn(data.x0.shape, generator=torch.Generator().manual_seed(0))
    t = Coef((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    p = denoiser(process.corrupt(data.x0, t, lambda like, tag="", kind="normal": eps), t, data.cond)
    kx, ke, _ = p.row
    return (p.value - (kx * data.x0 + ke * eps)).square().mean((1, 2, 3)).numpy()


def _share(base: np.ndarray, loss: np.ndarray, tuned: np.ndarray) -> float:
    return float((base.mean() - loss.mean()) / (base.mean() - tuned.mean()))


def _fit(roles: dict[str, nn.Module], trains: str, data: Set, lr: float, seed: int) -> float:
    trainer = Trainer(roles, Phase(Denoising(), trains=trains, optim=AdamW(lr=lr), clip=1.0), seed=seed)
    start = time.perf_counter()
    for _ in trainer.fit(Shuffled(data.x0, data.cond, batch=BATCH, seed=seed), STEPS):
        pass
    return time.perf_counter() - start


def _fine_tuned(loaded: Model, trained: Set, tested: Set, lr: float, seed: int) -> np.ndarray:
    twin = copy.deepcopy(loaded.denoiser)
    _fit({"model": twin}, "model", trained, lr, seed)
    return _loss(twin.eval(), tested)


def _trained(loaded: Model, data: Set, trial: Trial, seed: int) -> tuple[Adapter, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = trial.delta.on(loaded.denoiser)
    seconds = _fit({"model": loaded.denoiser.with_(adapter), "adapter": adapter}, "adapter", data, trial.lr, seed)
    return adapter.eval(), seconds


@torch.no_grad()
def _errors(loaded: Model, adapter: Adapter, data: Set) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        (again,) = load_adapters(save_adapters(Path(folder) / "a.safetensors", adapter), loaded.denoiser)["denoiser"]
    x, cond = data.x0[:4], data.cond[:4]

    def value(denoiser: Denoiser) -> Tensor:
        return denoiser(x, 0.5, cond).value

    view = value(loaded.denoiser.with_(adapter))
    others = {"merging error": bake(loaded.denoiser, adapter), "reloading error": loaded.denoiser.with_(again.eval())}
    return {name: float((value(other) - view).abs().max() / view.abs().max()) for name, other in others.items()}


def _quality(loaded: Model, view: Denoiser, data: Set, seed: int) -> dict[str, float]:
    place = {**mw.place(loaded, data.captions[:DRAWN]), "denoiser": view, "cond": data.cond[:DRAWN]}
    run = sample(**place, sampler=DDIM(), steps=12, guidance=CFG(mw.GUIDANCE), noise=seed)
    pixels = loaded.decode(run.x).clamp(-1, 1)
    features = ReaderFeatures()
    found = evaluate(Pictures(pixels, data.captions[:DRAWN]), [ReaderAccuracy(), VendiScore(features)])
    fidelity = F.cosine_similarity(features(pixels), features(data.pixels[:DRAWN])).mean().item()
    return {"fidelity": fidelity, "agreement": found["objects"].mean, "diversity": found["Vendi score"].mean}


def _rank_of_loha(seed: int) -> int:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        delta: Delta = LoHa(4, where="full")
        part: Any = delta.on(nn.Sequential(nn.Linear(64, 64))).parts[0]
        for p in part.parameters():
            nn.init.normal_(p)
        weight = delta.weight(part, torch.zeros(64, 64))
    return int(torch.linalg.matrix_rank(weight, rtol=1e-5))
