"""Claims about the state that a run starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from suffuse.adapters.lora import LoRA
from suffuse.core.denoiser import Denoiser
from suffuse.core.engine import sample
from suffuse.core.hook import Hook
from suffuse.core.process import Gaussian
from suffuse.core.training import Batch, Phase
from suffuse.evaluation import statistics
from suffuse.guidance.cfg import CFG
from suffuse.noise.one_more_step import OneMoreStep
from suffuse.samplers.ancestral import DDIM
from suffuse.samplers.spacing import Trailing
from suffuse.training import AdamW, Denoising, Shuffled, Trainer
from suffuse.world import Caption, WorldConfig, batch, render
from suffuse.world.captions import scenes_from_caption

from . import microworld as mw
from .claim import Cell, Figure, Table, at_most, claim

STEPS, TRAINED, TRAINING, ROWS = 12, 1024, 300, 32


@claim(
    paper="one-more-step",
    expect={
        "error of brightness / without": at_most(0.7),
        "error of brightness / without, LoRA": at_most(0.7),
    },
    budget=480,
)
def one_more_step(seed: int) -> Table:
    """OneMoreStep on `shapes`, whose table keeps 0.068 of the picture at its last timestep. psi is trained for 300
    steps of 32 on 1024 pictures of the world.

    64 captions that name a black or a white background, DDIM in 12 steps with trailing spacing at scale 3, the same
    noise: error of a picture's mean brightness (0 black, 1 white) to that of a true picture of the caption. The same
    psi, not trained again, on `shapes` with a LoRA of rank 4 that was trained for 40 steps on striped objects.
    """
    loaded = mw.model()
    process = loaded.denoiser.process
    assert isinstance(process, Gaussian)
    views, told = batch("train", 7, TRAINED, seed=seed)
    x0 = torch.cat([loaded.encode(rgb) for rgb in views.rgb.split(128)])
    cond = loaded.condition([str(c) for c in told])

    def source(step: int) -> Batch:
        rows = torch.randint(TRAINED, (ROWS,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step))
        return Batch({"x0": x0[rows]}, cond[rows], rows)

    hook = OneMoreStep.fit(source, process, steps=TRAINING, seed=seed)
    texts = [c for split in ("validation", "held-out") for c in mw.captions(512, split=split)]
    texts = [c for c in texts if c.background in ("black", "white")][:64]
    true = _brightness(render(scenes_from_caption(texts, seed)).rgb)
    arms: dict[str, tuple[Denoiser, Sequence[Hook]]] = {
        "shapes": (loaded.denoiser, ()),
        "shapes, OneMoreStep": (loaded.denoiser, (hook,)),
    }
    tuned = _tuned(seed)
    arms |= {"LoRA": (tuned, ()), "LoRA, OneMoreStep": (tuned, (hook,))}
    rows: list[Mapping[str, Cell]] = []
    errors = {}
    for name, (denoiser, hooks) in arms.items():
        pixels = _drawn(denoiser, texts, hooks, seed)
        errors[name] = (_brightness(pixels) - true).abs().numpy()
        wrong = mw.Pictures(pixels, torch.zeros(0), pixels, texts).wrong
        rows.append(
            {
                "arm": name,
                "error of brightness": statistics.mean(errors[name]),
                "wrong objects": statistics.mean(wrong.numpy()),
            }
        )
    figures: dict[str, Figure] = {
        "error of brightness / without": statistics.ratio(errors["shapes, OneMoreStep"], errors["shapes"]),
        "error of brightness / without, LoRA": statistics.ratio(errors["LoRA, OneMoreStep"], errors["LoRA"]),
    }
    return Table(rows, figures)


def _brightness(rgb: Tensor) -> Tensor:
    return rgb.double().mean((1, 2, 3)) / 2 + 0.5


def _drawn(denoiser: Denoiser, texts: Sequence[Caption], hooks: Sequence[Hook], seed: int) -> Tensor:
    loaded = mw.model()
    place = {**mw.place(loaded, texts), "denoiser": denoiser, "spacing": Trailing()}
    found = sample(**place, sampler=DDIM(), steps=STEPS, guidance=CFG(mw.GUIDANCE), hooks=hooks, noise=seed)
    return loaded.decode(found.x).clamp(-1, 1)


def _tuned(seed: int) -> Denoiser:
    """`shapes` with a LoRA that has learned to draw everything striped."""
    loaded = mw.model()
    views, captions = batch("train", 8, 256, seed=seed, config=WorldConfig(textured=1.0))
    data = Shuffled(loaded.encode(views.rgb), loaded.condition([str(c) for c in captions]), batch=8, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = LoRA(4).on(loaded.denoiser)
    roles = {"model": loaded.denoiser.with_(adapter), "adapter": adapter}
    trainer = Trainer(roles, Phase(Denoising(), trains="adapter", optim=AdamW(lr=2e-3), clip=1.0), seed=seed)
    for _ in trainer.fit(data, 40):
        pass
    return loaded.denoiser.with_(adapter.eval())
