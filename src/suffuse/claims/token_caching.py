"""Claims of methods that run a network on part of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffuse.caching.ras import RAS
from suffuse.caching.token_subset import pick
from suffuse.core.call import Call
from suffuse.core.model import Model
from suffuse.core.noise import Keyed
from suffuse.core.value import Coef
from suffuse.evaluation import statistics
from suffuse.evaluation.image import PSNR
from suffuse.evaluation.operations import operations
from suffuse.evaluation.pictures import Pictures
from suffuse.samplers.ancestral import Euler
from suffuse.world import batch

from . import microworld as mw
from .claim import Cell, Figure, Table, at_least, at_most, between, claim

STEPS, N = 10, 64
SETTING: dict[str, Any] = {"ratio": 0.125, "high": 0.0, "dense": 0.4, "resets": (0.7,), "text": False}
TUNED = 8
"""Captions on which `starvation` was chosen; the claim is of others."""


@dataclass(frozen=True)
class RandomTokens(RAS):
    """RAS that leaves out tokens by chance."""

    def metric(self, call: Call, change: Tensor) -> Tensor:
        assert call.at is not None
        return call.at.run.noise.uniform(change[:, 0], [s for _, s in call.rows], f"step/{call.at.i}/tokens")


@dataclass(frozen=True)
class WithoutRecovery(RAS):
    """RAS whose attention does not see the image tokens that are left out."""

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().qkv(call, q, k, v)
        seen = F.pad(~call.common["skip"], (0, k.shape[2] - call.common["skip"].shape[1]), value=True)  # image, text
        if bool(seen.all()):
            return q, k, v
        index = seen.nonzero()[:, 1].view(len(seen), -1)
        return q, pick(k, index), pick(v, index)


@claim(
    paper="ras",
    expect={
        "MACs": at_most(0.7),
        "MACs, 28 steps, half of the tokens": at_most(0.7),
        "PSNR over random tokens, dB": at_least(1.0),
        "PSNR over no recovery, dB": at_least(1.0),
        "PSNR over fewer steps, dB": at_least(0.0),
        "pixels that differ at ratio=1": between(0.0, 0.0),
    },
    budget=500,
)
def ras(seed: int) -> Table:
    """RAS on an eighth of the tokens in 10 steps, against leaving out tokens by chance, against attention that does not
    see the image tokens left out, and against fewer steps at its MACs: `shapes-flow`, 64 validation captions, Euler,
    CFG 3, the same noise; 4 dense steps at the start and a reset in the middle of the others. This is the setting of
    the paper's own comparison with random dropping (section "Ablation Study", token drop scheduling); our summary of
    the paper has 28 steps and half of the tokens, where RAS as below gained 1.5 [-0.1, 3.2] dB on 12 other captions.
    PSNR of each picture to that of the full run, differences paired. MACs are counted where they are executed, on one
    caption.

    The paper leaves out the tokens whose predicted velocity spreads most over channels, because on Stable Diffusion 3
    and Lumina the main subject has the lower spread. Here objects have the higher one, on pictures of the training
    stream, so that the background is at the other end of the metric: high=0, a parameter of the official code. This
    model has 288 text tokens and 64 image tokens, other than the paper's with 333 and 4096, so that MACs can only fall
    as asked where the text stream is left out at sparse steps as well (text=False), in all arms. The table also has
    tokens by chance among those that were left out least, the other end, and RAS with the text.
    """
    loaded = mw.model("shapes-flow")
    texts = mw.captions(TUNED + N)[TUNED:]

    def made(patches: Sequence[RAS], steps: int = STEPS, rows: int = N) -> Tensor:
        return mw.run(loaded, texts[:rows], steps=steps, sampler=Euler(), patches=patches, seed=seed).pixels

    def cost(patches: Sequence[RAS], steps: int = STEPS) -> int:
        return operations(lambda: made(patches, steps, 1))

    full, macs = made(()), cost(())
    arms: dict[str, tuple[Sequence[RAS], int]] = {
        "RAS": ((RAS(**SETTING),), STEPS),
        "random tokens": ((RandomTokens(starvation=0.0, **SETTING),), STEPS),
        "random tokens in turn": ((RandomTokens(**SETTING),), STEPS),
        "no recovery": ((WithoutRecovery(**SETTING),), STEPS),
        "RAS, the other end": ((RAS(**SETTING | {"high": 1.0}),), STEPS),
        "RAS with the text": ((RAS(**SETTING | {"text": True}),), STEPS),
    }
    shares = {name: cost(*arm) / macs for name, arm in arms.items()}
    fewer = round(STEPS * shares["RAS"])
    arms["fewer steps"], shares["fewer steps"] = ((), fewer), fewer / STEPS
    psnr = {name: PSNR().score(Pictures(made(*arm), references=full)).numpy() for name, arm in arms.items()}
    rows: list[Mapping[str, Cell]] = [
        {"arm": name, "steps": arms[name][1], "MACs": shares[name], "PSNR to full, dB": statistics.mean(psnr[name])}
        for name in arms
    ]
    figures: dict[str, Figure] = {
        "MACs": shares["RAS"],
        "MACs, 28 steps, half of the tokens": cost((RAS(text=False),), 28) / cost((), 28),
        **{
            f"PSNR over {name}, dB": statistics.difference(psnr["RAS"], psnr[name])
            for name in ("random tokens", "no recovery", "fewer steps")
        },
        "spread of the velocity, objects / beside": _spread(loaded, seed),
        "pixels that differ at ratio=1": float((made((RAS(1.0),), rows=4) != made((), rows=4)).sum()),
    }
    return Table(rows, figures)


@torch.no_grad()
def _spread(loaded: Model, seed: int) -> float:
    """Mean spread over channels of the predicted velocity of 24 pictures half way, by patches: objects / beside."""
    views, captions = batch("train", 1, 24, maps=("masks",))
    assert views.masks is not None
    x0, t = loaded.encode(views.rgb), Coef(torch.full((len(captions),), 0.5, dtype=torch.float64))
    x = loaded.denoiser.process.marginal(x0, t).at(Keyed(seed).normal(x0, range(len(x0)), "spread"))
    velocity = loaded.denoiser(x, t, loaded.condition([str(c) for c in captions])).value
    spread = F.avg_pool2d(velocity.std(1, correction=0, keepdim=True), 2)
    objects = F.avg_pool2d(views.masks.amax(1, keepdim=True), views.masks.shape[-1] // spread.shape[-1])
    return float(spread[objects > 0.7].mean() / spread[objects < 0.05].mean())
