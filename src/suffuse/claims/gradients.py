"""Claims of gradient guidance: classifiers of noisy states, and off-the-shelf ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffuse.backbones.adm import ADM
from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser, Network
from suffuse.core.engine import sample
from suffuse.core.guidance import Guidance
from suffuse.core.prediction import EPS
from suffuse.core.sampler import Sampler
from suffuse.core.training import Phase
from suffuse.evaluation import statistics
from suffuse.evaluation.features import Features
from suffuse.evaluation.pictures import Pictures
from suffuse.evaluation.precision_recall import PrecisionRecall
from suffuse.evaluation.reference import Reference
from suffuse.guidance.classifier import ClassifierGuidance
from suffuse.guidance.gradient import GradientGuidance
from suffuse.guidance.ppap import PPAP, synthesise
from suffuse.guidance.scorers import ClassScore, Clean
from suffuse.networks.adm import ADMClassifier, ADMUNet
from suffuse.processes.learned_variance import LearnedVariance
from suffuse.samplers.ancestral import DDIM, DDPM
from suffuse.training.denoising import Denoising, Times, UniformTimes
from suffuse.training.followers import EMA
from suffuse.training.muon import Muon
from suffuse.training.noisy_classification import NoisyClassification
from suffuse.training.optimisers import AdamW, WarmupDecay
from suffuse.training.sources import Shuffled
from suffuse.training.trainer import Trainer
from suffuse.training.variational_bound import Timesteps, VariationalBound
from suffuse.zoo.recipes.digits import CLASSES, NULL, data

from . import digits
from . import microworld as mw
from .claim import Cell, Figure, Table, at_least, claim

SHAPE = (1, 8, 8)
TABLE = LearnedVariance("linear", 1e-4, 0.02)
PICTURES, BATCH = 400, 200
SCALES = (1.0, 3.0, 10.0, 30.0)


@claim(
    paper="adm",
    expect={
        "accuracy gained": at_least(0.3),
        "accuracy over a clean classifier": at_least(0.0),
        "recall lost from the least to the largest scale": at_least(0.0),
    },
    budget=400,
)
def adm(seed: int) -> Table:
    """Classifier guidance of an unconditional ADM on digits, both trained here: a UNet of 0.5 M parameters with a
    learned variance (600 steps of the hybrid loss) and a classifier of noisy states (300 steps). 400 pictures of random
    classes in 25 steps of DDIM at each scale, from the same noise; 100 steps of DDPM, whose mean is moved by the
    learned variance, at the best of them.

    Accuracy: share that another classifier, trained on clean digits, gives the wanted class; without guidance, at the
    scale that is best, and at the best scale for the same network trained on clean digits alone. Precision, recall and
    Frechet distance in that judge's last hidden layer.
    """
    model = _generator(seed)
    noisy, clean = _classifier(seed, UniformTimes()), _classifier(seed, UniformTimes(0.0, 1e-4))
    arms: dict[str, tuple[Guidance | None, Sampler, int]] = {"none": (None, DDIM(), 25)}
    arms |= {f"s = {s:g}": (ClassifierGuidance(noisy, s), DDIM(), 25) for s in SCALES}
    arms |= {f"clean, s = {s:g}": (GradientGuidance(ClassScore(Unaware(clean)), s), DDIM(), 25) for s in SCALES}
    found = {name: _drawn(model, *arm, seed) for name, arm in arms.items()}
    best = _best(found, "s = ")
    moved = ClassifierGuidance(noisy, float(best.split("= ")[1]), mean=True)
    found["DDPM, none"] = _drawn(model, None, DDPM(), 100, seed)
    found[f"DDPM, {best}"] = _drawn(model, moved, DDPM(), 100, seed)
    rows = [_row(name, run) for name, run in found.items()]
    recall = [_quality(found[f"s = {s:g}"].pictures)["recall"] for s in (SCALES[0], SCALES[-1])]
    figures: dict[str, Figure] = {
        "accuracy gained": statistics.difference(found[best].hits, found["none"].hits),
        "accuracy over a clean classifier": statistics.difference(
            found[best].hits, found[_best(found, "clean, ")].hits
        ),
        "recall lost from the least to the largest scale": recall[0].mean - recall[1].mean,
        "accuracy gained by moved means": statistics.difference(found[f"DDPM, {best}"].hits, found["DDPM, none"].hits),
        "accuracy of the judge on digits": digits.accuracy(),
    }
    return Table(rows, figures)


@claim(
    paper="ppap",
    expect={"accuracy over the clean network": at_least(0.15), "accuracy over one expert": at_least(0.0)},
    budget=400,
)
def ppap(seed: int) -> Table:
    """Five experts of an off-the-shelf classifier guide the bundled `digits` model without its classes, against the
    classifier itself and against one expert for all times, trained for as many updates on as many pictures.

    The classifier (batch norms, trained here on clean digits) labels 1024 pictures that the model makes; no label and
    no digit is used for the experts, 500 steps of 128 pictures. 400 pictures of random classes, 25 steps of DDIM, each
    arm at its best scale. Accuracy: share that another classifier, of another architecture, gives the wanted class.
    """
    model, net = mw.model("digits").denoiser, _off_the_shelf(seed)
    null = Cond({"label": torch.tensor([NULL])})
    made = synthesise(model, 1024, SHAPE, cond=null, seed=seed + 1000)
    fitted = {
        count: PPAP.fit(net, model, SHAPE, count=count, pictures=made, steps=500, batch=128, lr=2e-3, seed=seed)
        for count in (5, 1)
    }
    arms: dict[str, tuple[Guidance | None, Sampler, int]] = {"none": (None, DDIM(), 25)}
    for s in SCALES:
        arms[f"clean, s = {s:g}"] = (GradientGuidance(ClassScore(Clean(net)), s), DDIM(), 25)
        arms |= {f"{count} experts, s = {s:g}": (PPAP(p.experts, s), DDIM(), 25) for count, p in fitted.items()}
    found = {name: _drawn(model, *arm, seed, null) for name, arm in arms.items()}
    five, one, plain = (found[_best(found, name)] for name in ("5 experts", "1 experts", "clean"))
    figures: dict[str, Figure] = {
        "accuracy over the clean network": statistics.difference(five.hits, plain.hits),
        "accuracy over one expert": statistics.difference(five.hits, one.hits),
        "trained share of an expert": fitted[5].experts.share(),
        "accuracy of the network on digits": _accuracy(net),
        "accuracy of the judge on digits": digits.accuracy(),
    }
    return Table([_row(name, run) for name, run in found.items()], figures)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pictures of wanted classes."""

    pictures: Tensor
    hits: np.ndarray


@dataclass(frozen=True)
class Unaware:
    """A classifier that is told that every state is clean."""

    net: ADMClassifier

    def __call__(self, x: Tensor, t: object) -> Tensor:
        return self.net(x, 0.0)


@dataclass(frozen=True)
class JudgeFeatures(Features):
    """The last hidden layer of the judge."""

    @property
    def name(self) -> str:
        return "classifier of digits, last hidden layer"

    def __call__(self, images: Tensor) -> Tensor:
        return digits.classifier()[:-1](images.float().clamp(-1, 1))


def _drawn(
    model: Denoiser, guidance: Guidance | None, sampler: Sampler, steps: int, seed: int, null: Cond = EMPTY
) -> Drawn:
    """`null` is one row, the condition of a model that has classes and is not told one."""
    target = torch.arange(PICTURES) % CLASSES
    cond = null.repeat(PICTURES).with_alt(target=Cond({"label": target}))
    made = []
    for rows in torch.arange(PICTURES).split(BATCH):
        run = sample(model, (len(rows), *SHAPE), sampler=sampler, steps=steps, cond=cond[rows], guidance=guidance,
                     noise=seed, samples=rows.tolist())  # fmt: skip
        made.append(run.x)
    pictures = torch.cat(made).clamp(-1, 1)
    return Drawn(pictures, (digits.classifier()(pictures).argmax(1) == target).double().numpy())


def _best(found: Mapping[str, Drawn], prefix: str) -> str:
    """The arm of highest accuracy among those whose name begins so."""
    return max((name for name in found if name.startswith(prefix)), key=lambda name: found[name].hits.mean())


def _row(name: str, run: Drawn) -> Mapping[str, Cell]:
    quality = _quality(run.pictures)
    return {
        "guidance": name,
        "accuracy": statistics.proportion(run.hits),
        "precision": quality["precision"],
        "recall": quality["recall"],
        "Frechet": digits.distance(run.pictures),
    }


def _quality(pictures: Tensor) -> Mapping[str, statistics.Estimate]:
    metric = PrecisionRecall(JudgeFeatures(), _reference())
    return metric.result(metric.measure(Pictures(pictures)))


@lru_cache(maxsize=1)
def _reference() -> Reference:
    return Reference.of(JudgeFeatures(), data()[0])


def _generator(seed: int) -> Network:
    """An unconditional ADM of digits, after a minute and a half of one core."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ADMUNet(8, 1, 0, 24, (1, 2), 1, (4,), 8, groups=8)
    objective = Denoising(times=Timesteps(TABLE.N), extra=(VariationalBound(TABLE, levels=17),))
    phase = Phase(objective, optim=Muon(lr=2e-3, schedule=WarmupDecay(warmup=30, decay=0.5)))
    trainer = Trainer({"model": Network(net, ADM(), TABLE, EPS)}, phase, {"ema": EMA(decay=0.99)}, seed=seed)
    for _ in trainer.fit(Shuffled(data()[0], EMPTY, 64, seed), 600):
        pass
    ema = trainer.roles.ema
    assert isinstance(ema, Network)
    return ema.eval().requires_grad_(False)


def _classifier(seed: int, times: Times) -> ADMClassifier:
    """ADM's classifier of digits at these times."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ADMClassifier(8, CLASSES, 1, 16, (1, 2), 1, (4,), 8, groups=8)
    objective = NoisyClassification(TABLE, times=times)
    phase = Phase(objective, "classifier", AdamW(lr=3e-3, schedule=WarmupDecay(warmup=20, decay=0.5)))
    pictures, labels = data()
    trainer = Trainer({"classifier": net}, phase, seed=seed)
    for _ in trainer.fit(Shuffled(pictures, Cond({"label": labels}), 128, seed), 300):
        pass
    return net.eval().requires_grad_(False)


def _off_the_shelf(seed: int) -> nn.Sequential:
    """A classifier of clean digits, unlike the judge."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        net = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, 48, 3, padding=1, stride=2), nn.BatchNorm2d(48), nn.ReLU(),
            nn.Conv2d(48, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(192, CLASSES),
        )  # fmt: skip
        optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
        pictures, labels = data()
        for rows in torch.randint(len(pictures), (300, 128)):
            loss = F.cross_entropy(net(pictures[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval().requires_grad_(False)


@torch.no_grad()
def _accuracy(net: nn.Module) -> float:
    pictures, labels = data()
    return (net(pictures).argmax(1) == labels).double().mean().item()
