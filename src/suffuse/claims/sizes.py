"""Claims of methods for sizes that a model was not trained at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffuse.adapters import LoRA, ResCLoRA, ResENorm
from suffuse.core.engine import sample
from suffuse.core.model import Model
from suffuse.core.patch import Adapter, Patch
from suffuse.core.training import Phase
from suffuse.evaluation import statistics
from suffuse.evaluation.features import ReaderFeatures, load_reader
from suffuse.evaluation.frechet import frechet
from suffuse.evaluation.moments import Moments
from suffuse.evaluation.timing import paired
from suffuse.guidance import CFG
from suffuse.resolution import MSWMSA, RAUNet, VariableSize, attention_entropy
from suffuse.samplers import DDIM
from suffuse.training import AdamW, Buckets, Denoising, Shuffled, Trainer
from suffuse.world import Caption, WorldConfig, batch, frozen, render
from suffuse.zoo.judge import judge

from . import microworld as mw
from .claim import Cell, Figure, Table, at_least, at_most, claim

STEPS = 20


@dataclass(frozen=True, eq=False)
class Made:
    """Pictures of captions at one size, and what the reader sees in them."""

    latents: Tensor
    pixels: Tensor
    captions: Sequence[Caption]

    @property
    def duplicates(self) -> Tensor:
        """(n,) objects above the number in the caption."""
        reader, _ = load_reader(None)
        with torch.no_grad():
            count = reader.read(self.pixels).count
        wanted = torch.tensor([c.count for c in self.captions])
        return (count - wanted).clamp(min=0).double()

    @property
    def right(self) -> Tensor:
        """(n,) 1.0 where every object of the caption is there in shape and colour."""
        reader, _ = load_reader(None)
        with torch.no_grad():
            return judge(reader.read(self.pixels), self.captions).objects.right.double()

    @property
    def complete(self) -> Tensor:
        """(n,) 1.0 where all objects of the caption are there and no other."""
        reader, _ = load_reader(None)
        with torch.no_grad():
            found = judge(reader.read(self.pixels), self.captions)
        return (found.objects.right & found.count.right).double()


def at_size(
    loaded: Model, texts: Sequence[Caption], side: int, patches: Sequence[Any] = (), *, seed: int = 0, chunk: int = 16
) -> Made:
    """Pictures of captions at side x side pixels, picture i with the same noise whatever the method."""
    grid, parts = side // loaded.codec.space.factor, []
    for rows in torch.arange(len(texts)).split(chunk):
        picked = [texts[i] for i in rows]
        x = sample(
            loaded.denoiser, (len(picked), loaded.codec.space.channels, grid, grid), sampler=DDIM(), steps=STEPS,
            guidance=CFG(mw.GUIDANCE), spacing=loaded.defaults.spacing, patches=patches, noise=seed,
            cond=loaded.condition([str(c) for c in picked], size=(side, side)), samples=rows.tolist(),
        ).x  # fmt: skip
        assert isinstance(x, Tensor)
        parts.append((x, loaded.decode(x).clamp(-1, 1)))
    latents, pixels = (torch.cat(column) for column in zip(*parts, strict=True))
    return Made(latents, pixels, texts)


@claim(
    paper="variable-size",
    expect={
        "entropy range of random logits / plain": at_most(0.9),
        "entropy drift at 48 and 128 px / direct": at_most(0.85),
        "completeness at 48 px - direct": at_least(0.0),
        "duplicates at 128 px / direct": at_most(1.0),
        "objects right at 128 px - direct": at_least(0.0),
        "latents at 64 px, largest difference": at_most(0.0),
    },
    budget=400,
)
def variable_size(seed: int) -> Table:
    """VariableSize against direct sampling: `shapes` (native 64 px) at 48 and 128 px, 96 validation captions, 20 DDIM
    steps, CFG 3, the same noise.

    Entropy range is that of attention to N = 64 to 1024 Gaussian keys, logits of deviation 1.5, with T = 256. Drift is
    the mean over layers of the distance of a layer's entropy, averaged over steps, from that at 64 px; 8 captions.
    Duplicates are objects that the reader counts above the caption's; complete is a picture with all of the caption's
    objects and no other.
    """
    loaded = mw.model()
    texts = mw.captions(96)
    arms: Mapping[str, tuple[Patch, ...]] = {"direct": (), "VariableSize": (VariableSize(),)}
    made = {(n, s): at_size(loaded, texts, s, p, seed=seed) for n, p in arms.items() for s in (48, 128)}
    native = [at_size(loaded, texts[:8], 64, p, seed=seed).latents for p in arms.values()]
    drift = _drift(loaded, texts[:8], arms, seed)
    rows: list[Mapping[str, Cell]] = [
        {
            "arm": name,
            "side": side,
            "duplicates": statistics.mean(made[name, side].duplicates.numpy()),
            "objects right": statistics.proportion(made[name, side].right.numpy()),
            "complete": statistics.proportion(made[name, side].complete.numpy()),
            "entropy drift": drift[name, side],
        }
        for name, side in made
    ]
    low, high = (made[name, 48].complete.numpy() for name in arms), (made[name, 128] for name in arms)
    (direct48, ours48), (direct, ours) = low, high
    total = {name: sum(drift[name, side] for side in (48, 128)) for name in arms}
    figures: dict[str, Figure] = {
        "entropy range of random logits / plain": _entropy_range(seed),
        "entropy drift at 48 and 128 px / direct": total["VariableSize"] / total["direct"],
        "completeness at 48 px - direct": statistics.difference(ours48, direct48),
        "duplicates at 128 px / direct": statistics.ratio(ours.duplicates.numpy(), direct.duplicates.numpy()),
        "objects right at 128 px - direct": statistics.difference(ours.right.numpy(), direct.right.numpy()),
        "latents at 64 px, largest difference": float((native[0] - native[1]).abs().max()),
    }
    return Table(rows, figures)


def _drift(
    loaded: Model, texts: Sequence[Caption], arms: Mapping[str, tuple[Patch, ...]], seed: int
) -> dict[tuple[str, int], float]:
    """Mean over layers of |entropy - entropy at the native size|, in nats."""

    def layers(side: int, patches: Sequence[Patch]) -> Tensor:
        grid = side // loaded.codec.space.factor
        found = attention_entropy(
            loaded.denoiser, (len(texts), loaded.codec.space.channels, grid, grid), patches=patches, sampler=DDIM(),
            steps=STEPS, spacing=loaded.defaults.spacing, noise=seed, cond=loaded.condition([str(c) for c in texts]),
        )  # fmt: skip
        return torch.stack(list(found.values())).mean(1)

    native = layers(64, ())
    return {
        (name, side): float((layers(side, patches) - native).abs().mean())
        for name, patches in arms.items()
        for side in (48, 128)
    }


def _entropy_range(seed: int, trained: int = 256) -> float:
    """Range over N of the entropy of scaled attention to random keys, in units of that of plain attention."""
    generator = torch.Generator().manual_seed(seed)
    plain: list[float] = []
    scaled: list[float] = []
    for n in (64, 128, 256, 512, 1024):
        logits = 1.5 * torch.randn(256, n, generator=generator)
        for found, factor in ((plain, 1.0), (scaled, math.sqrt(math.log(n) / math.log(trained)))):
            found.append(float(torch.special.entr((factor * logits).softmax(-1)).sum(-1).mean()))
    return (max(scaled) - min(scaled)) / (max(plain) - min(plain))


@claim(
    paper="hidiffusion",
    expect={
        "duplicates at 128 px, RAU-Net / direct": at_most(0.5),
        "objects right at 128 px, RAU-Net - direct": at_least(0.0),
        "objects right, both - RAU-Net": at_least(-0.03),
        "duplicates at 256 px, both stages - the first": at_most(0.0),
        "time of top-level attention, windows / whole": at_most(0.6),
        "latents at 64 px, largest difference": at_most(0.0),
    },
    budget=600,
)
def hidiffusion(seed: int) -> Table:
    """RAU-Net and MSW-MSA against direct sampling: `shapes` (native 64 px) at 128 px, 64 validation captions of one and
    two objects, 20 DDIM steps, CFG 3, the same noise; 12 of them at 256 px, where the second stage is left out in one
    arm. RAU-Net runs until T1 = 0.4, the paper's for twice the side, and in one arm until 0.7. The first stage is at
    the outermost level: at the next one, as in SDXL, whose levels this network's are like, it changes nothing (0.97
    [0.93, 1.02] of the duplicates).

    Duplicates are objects that the reader counts above the caption's. Time is the median ratio of interleaved calls of
    one self-attention of the outermost level that attends, at 256 px, in a batch of four.
    """
    loaded = mw.model()
    texts = [c for c in mw.captions(128) if c.count <= 2][:64]
    stages = RAUNet(level=0)
    first = RAUNet(strided=(0.0, 0.7), pooled=(0.0, 0.0), level=0)
    arms: Mapping[str, tuple[int, int, tuple[Patch, ...]]] = {
        "direct": (128, 64, ()),
        "RAU-Net": (128, 64, (stages,)),
        "RAU-Net, T1 = 0.7": (128, 64, (first,)),
        "windows": (128, 64, (MSWMSA(),)),
        "both": (128, 64, (stages, MSWMSA())),
        "direct, 256 px": (256, 12, ()),
        "first stage, 256 px": (256, 12, (first,)),
        "both stages, 256 px": (256, 12, (stages,)),
    }
    made = {name: at_size(loaded, texts[:n], side, p, seed=seed) for name, (side, n, p) in arms.items()}
    native = [at_size(loaded, texts[:8], 64, p, seed=seed).latents for p in ((), (stages, MSWMSA()))]
    rows: list[Mapping[str, Cell]] = [
        {
            "arm": name,
            "duplicates": statistics.mean(m.duplicates.numpy()),
            "objects right": statistics.proportion(m.right.numpy()),
            "complete": statistics.proportion(m.complete.numpy()),
        }
        for name, m in made.items()
    ]

    def ratio(name: str, baseline: str) -> statistics.Estimate:
        return statistics.ratio(made[name].duplicates.numpy(), made[baseline].duplicates.numpy())

    def gain(name: str, baseline: str) -> statistics.Estimate:
        return statistics.difference(made[name].right.numpy(), made[baseline].right.numpy())

    figures: dict[str, Figure] = {
        "duplicates at 128 px, RAU-Net / direct": ratio("RAU-Net", "direct"),
        "duplicates at 128 px, RAU-Net until 0.7 / direct": ratio("RAU-Net, T1 = 0.7", "direct"),
        "objects right at 128 px, RAU-Net - direct": gain("RAU-Net", "direct"),
        "objects right, both - RAU-Net": gain("both", "RAU-Net"),
        "duplicates at 256 px, both stages - the first": statistics.difference(
            made["both stages, 256 px"].duplicates.numpy(), made["first stage, 256 px"].duplicates.numpy()
        ),
        "time of top-level attention, windows / whole": _attention_time(loaded),
        "latents at 64 px, largest difference": float((native[0] - native[1]).abs().max()),
    }
    return Table(rows, figures)


def _attention_time(loaded: Model) -> statistics.Estimate:
    """Time of the self-attention of the outermost level on a quarter of the tokens in four times the rows."""
    assert loaded.denoiser.sites is not None
    site = max(loaded.denoiser.sites.attention("self"), key=lambda s: math.prod(s.grid))
    assert site.module is not None
    whole = torch.randn(4, 32 * 32, site.module.to_q.in_features)  # type: ignore[union-attr, arg-type]
    cut = whole.reshape(16, 16 * 16, -1)

    def call(tokens: Tensor) -> None:
        with torch.no_grad():
            site.module(tokens)  # type: ignore[misc]

    return paired(lambda: call(cut), lambda: call(whole), rounds=15).ratio


SIDES, SCENES, BATCH, TRAINING = (48, 80, 96, 112, 128), 512, 8, 300
"""Sides of the buckets, training scenes, rows of a batch, and steps."""


@claim(
    paper="resadapter",
    expect={
        "Frechet distance / direct, mean of 48, 96 and 128 px": at_most(0.8),
        "duplicates at 96 and 128 px / direct": at_most(0.6),
        "style accuracy, ResAdapter - sibling": at_least(-0.03),
        "style accuracy, attention LoRA - sibling": at_most(-0.08),
        "change at 64 px, ResAdapter / attention LoRA": at_most(1.0),
    },
    budget=900,
)
def resadapter(seed: int) -> Table:
    """ResAdapter against direct sampling and against a LoRA of attention with as many numbers: `shapes` (native 64 px),
    both trained alike for 300 steps of 8 on 512 scenes of the world, rendered at 48, 80, 96, 112 and 128 px and drawn
    with p(s) ~ |s - 64|^2; 32 validation captions at 48, 96 and 128 px, 20 DDIM steps, CFG 3, the same noise.

    Frechet distance is on the reader's features, pictures at 64 px, to true renderings of the same captions; duplicates
    are objects that the reader counts above the caption's. The sibling is `shapes` with a style of its own, a LoRA
    trained at 64 px for 150 steps on scenes whose objects are all textured while captions say nothing of it; style
    accuracy is the share of its pictures at 64 px, of captions without a texture, in which the reader finds a textured
    object. Change at 64 px is the distance of final latents to the base's.
    """
    loaded = mw.model()
    texts = mw.captions(32)
    ours = (ResCLoRA().on(loaded.denoiser), ResENorm().on(loaded.denoiser))
    numbers = sum(p.numel() for part in ours for p in part.parameters())
    attention = (_of_size(loaded, numbers),)
    source = _mixed(loaded, seed)
    for parts in (ours, attention):
        _train(loaded, parts, source, TRAINING, seed)
    arms: Mapping[str, tuple[Adapter, ...]] = {"direct": (), "ResAdapter": ours, "attention LoRA": attention}
    made = {
        (n, side): at_size(loaded, texts, side, p, seed=seed) for n, p in arms.items() for side in (48, 64, 96, 128)
    }
    truth = render(frozen("validation")[0][: len(texts)]).rgb
    distance = {key: _distance(m.pixels, truth) for key, m in made.items()}
    plain = [c for c in mw.captions(256) if all(p.texture is None for p in c.phrases)][:48]
    style = LoRA(8, where="attn-mlp").on(loaded.denoiser)
    _train(loaded, (style,), _textured(loaded, seed), TRAINING // 2, seed)
    styled = {n: _textured_share(at_size(loaded, plain, 64, (*p, style), seed=seed)) for n, p in arms.items()}
    rows: list[Mapping[str, Cell]] = [
        {
            "arm": name,
            "side": side,
            "Frechet to truth": distance[name, side],
            "duplicates": statistics.mean(m.duplicates.numpy()),
            "objects right": statistics.proportion(m.right.numpy()),
        }
        for (name, side), m in made.items()
    ]

    def duplicates(name: str) -> Tensor:
        return made[name, 96].duplicates + made[name, 128].duplicates

    def change(name: str) -> Tensor:
        return (made[name, 64].latents - made["direct", 64].latents).flatten(1).norm(dim=1)

    far = {name: sum(distance[name, side] for side in (48, 96, 128)) for name in arms}
    figures: dict[str, Figure] = {
        "Frechet distance / direct, mean of 48, 96 and 128 px": far["ResAdapter"] / far["direct"],
        "duplicates at 96 and 128 px / direct": statistics.ratio(
            duplicates("ResAdapter").numpy(), duplicates("direct").numpy()
        ),
        "style accuracy, ResAdapter - sibling": statistics.difference(styled["ResAdapter"], styled["direct"]),
        "style accuracy, attention LoRA - sibling": statistics.difference(styled["attention LoRA"], styled["direct"]),
        "change at 64 px, ResAdapter / attention LoRA": statistics.ratio(
            change("ResAdapter").numpy(), change("attention LoRA").numpy()
        ),
    }
    return Table(rows, figures)


def _of_size(loaded: Model, numbers: int) -> Adapter:
    """The LoRA of attention whose size is nearest to so many numbers."""
    each = sum(p.numel() for p in LoRA(1, where="attn-only").on(loaded.denoiser).parameters())
    return LoRA(max(1, round(numbers / each)), where="attn-only").on(loaded.denoiser)


def _mixed(loaded: Model, seed: int) -> Buckets:
    """The same scenes at every side."""
    sources = {(side, side): _scenes(loaded, side, WorldConfig(), seed) for side in SIDES}
    return Buckets(sources, (64, 64))


def _scenes(loaded: Model, side: int, config: WorldConfig, seed: int) -> Shuffled:
    """Encoded scenes of the world with their captions."""
    views, captions = batch("train", 0, SCENES, side, seed=seed + 100, config=config)
    latents = torch.cat([loaded.encode(part) for part in views.rgb.split(32)])
    return Shuffled(latents, loaded.condition([str(c) for c in captions], size=(side, side)), BATCH, seed)


def _textured(loaded: Model, seed: int) -> Shuffled:
    """Scenes at the native size in which every object is textured, of which the captions say nothing."""
    views, captions = batch("train", 1, SCENES, 64, seed=seed + 100, config=WorldConfig(textured=1.0))
    said = [" ".join(w for w in str(c).split() if w not in ("striped", "dotted")) for c in captions]
    latents = torch.cat([loaded.encode(part) for part in views.rgb.split(32)])
    return Shuffled(latents, loaded.condition(said), BATCH, seed)


def _train(loaded: Model, parts: Sequence[Adapter], source: Any, steps: int, seed: int) -> None:
    roles: dict[str, Any] = {"model": loaded.denoiser.with_(*parts)}
    roles |= {f"part{k}": part for k, part in enumerate(parts)}
    names = tuple(name for name in roles if name != "model")
    phase = Phase(Denoising(dropout=0.1), trains=names, optim=AdamW(lr=1e-3))
    for _ in Trainer(roles, phase, seed=seed, precision="bf16").fit(source, steps=steps):
        pass
    for part in parts:
        part.eval()


def _distance(pixels: Tensor, truth: Tensor) -> float:
    features = ReaderFeatures()
    return frechet(Moments.of(features(pixels)), Moments.of(features(truth)))


def _textured_share(made: Made) -> Any:
    """(n,) 1.0 where the reader finds a textured object."""
    reader, _ = load_reader(None)
    with torch.no_grad():
        reading = reader.read(made.pixels)
    return ((reading.texture.argmax(-1) > 0) & reading.present).any(1).double().numpy()
