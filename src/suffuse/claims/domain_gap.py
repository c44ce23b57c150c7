"""Claim of translation over a large domain gap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.model import Model
from suffuse.core.training import Phase
from suffuse.editing import ByClassifier, ByPrompt, revive
from suffuse.editing.domain_gap import Unguided, operating_point
from suffuse.evaluation import statistics
from suffuse.evaluation.features import load_reader
from suffuse.networks.adm import ADMClassifier
from suffuse.training.noisy_classification import NoisyClassification
from suffuse.training.optimisers import AdamW, WarmupDecay
from suffuse.training.sources import Shuffled
from suffuse.training.trainer import Trainer
from suffuse.world import COLOURS, SHAPES, Caption, Phrase, Scenes, WorldConfig, render, sample_scenes
from suffuse.zoo.judge import judge

from . import microworld as mw
from .claim import Table, at_least, at_most, claim

CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
STRENGTHS = (0.5, 0.65, 0.8, 0.95)


@claim(
    paper="revive-2i",
    expect={
        "accuracy by prompt": at_least(0.8),
        "accuracy unguided": at_most(0.4),
        "IoU - from noise": at_least(0.2),
        "classifier - unguided": at_least(0.0),
        "prompt - classifier": at_least(0.0),
    },
    budget=900,
)
def revive_2i(seed: int) -> Table:
    """Translation of black outlines on white, which `shapes` was never shown, into filled objects of a colour and
    shape that are named: 48 pictures, 20 DDIM steps, on a grid of strengths, unguided, by prompt (CFG 3 and 7.5) and by
    a classifier of noisy latents that is trained here (64 classes, 400 steps; scales 3 and 10).

    Accuracy: share in which the reader finds the object, unguided and by classifier at the strength of the prompt's
    operating point (recognised at least 0.9 times the best, most structure kept). IoU: of the filled outline and what
    differs from the ground in the picture, over that of pictures made from nothing but noise by the same prompts.
    """
    loaded = mw.model()
    scenes = _one_object(48, seed)
    views = render(scenes, 64, maps=("edges", "masks"))
    assert views.edges is not None and views.masks is not None
    bones = 1.0 - 2.0 * views.edges.clamp(0, 1).expand(-1, 3, -1, -1)
    names = _names(scenes)
    ways = ByPrompt("a {}", (3.0, 7.5)), ByClassifier(_classifier(loaded, seed), CLASSES, (3.0, 10.0))
    found = revive(loaded, bones, names, recognise=recognised, ways=ways, strengths=STRENGTHS, seeds=(seed,), steps=20)
    point = operating_point(found.of(ByPrompt))
    unguided, led = (
        max((p for p in found.of(way) if p.strength == point.strength), key=lambda p: float(p.recognised.mean()))
        for way in (Unguided, ByClassifier)
    )
    fresh = mw.run(loaded, [_caption(n) for n in names], steps=20, seed=seed + 1).pixels
    filled = views.masks[:, 0] > 0.5
    hits = {
        k: (p.recognised[0] > 0.5).double() for k, p in (("prompt", point), ("classifier", led), ("none", unguided))
    }
    return Table(
        [p.row for p in found.points],
        {
            "accuracy by prompt": statistics.proportion(hits["prompt"].numpy()),
            "accuracy by classifier": statistics.proportion(hits["classifier"].numpy()),
            "accuracy unguided": statistics.proportion(hits["none"].numpy()),
            "IoU - from noise": statistics.difference(_iou(point.best, filled), _iou(fresh, filled)),
            "classifier - unguided": statistics.difference(hits["classifier"], hits["none"]),
            "prompt - classifier": statistics.difference(hits["prompt"], hits["classifier"]),
            "strength of the operating point": point.strength,
        },
    )


def recognised(pixels: Tensor, names: Sequence[str]) -> Tensor:
    """(B,) the reader's score of an object of that colour and shape."""
    reader, _ = load_reader(None)
    with torch.no_grad():
        return judge(reader.read(pixels), [_caption(name) for name in names]).objects.score.double()


def _caption(name: str) -> Caption:
    colour, shape = name.split()
    return Caption((Phrase(shape, colour),))


def _one_object(n: int, *seed: int) -> Scenes:
    return sample_scenes(n, (*seed, 7), WorldConfig((1.0,), equal=0.0, textured=0.0))


def _names(scenes: Scenes) -> list[str]:
    return [f"{COLOURS[int(c)]} {SHAPES[int(s)]}" for c, s in zip(scenes.colour[:, 0], scenes.shape[:, 0], strict=True)]


def _iou(pixels: Tensor, filled: Tensor) -> Tensor:
    """(B,) of the filled outline and the pixels that differ from the ground, the median of the picture's border."""
    border = torch.cat([pixels[..., 0, :], pixels[..., -1, :], pixels[..., 0], pixels[..., -1]], -1)
    ground = border.median(-1).values[..., None, None]
    shown = (pixels - ground).abs().amax(1) > 0.3
    return (shown & filled).flatten(1).sum(1).double() / (shown | filled).flatten(1).sum(1)


def _classifier(loaded: Model, seed: int) -> ADMClassifier:
    """Of noisy latents of scenes with one object: which of CLASSES."""
    scenes = _one_object(2048, seed, 1)
    latents = torch.cat([loaded.encode(part) for part in render(scenes, 64).rgb.split(128)])
    labels = torch.tensor([CLASSES.index(name) for name in _names(scenes)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ADMClassifier(latents.shape[-1], len(CLASSES), latents.shape[1], 16, (1, 2), 1, (8,), 8, groups=8)
    objective = NoisyClassification(loaded.denoiser.process)
    phase = Phase(objective, "classifier", AdamW(lr=3e-3, schedule=WarmupDecay(warmup=20, decay=0.5)))
    for _ in Trainer({"classifier": net}, phase, seed=seed).fit(
        Shuffled(latents, Cond({"label": labels}), 64, seed), 400
    ):
        pass
    return net.eval().requires_grad_(False)
