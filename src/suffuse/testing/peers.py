"""suffuse beside what people use today, on one checkpoint, in one process, interleaved.

Every arm makes the same pictures: the same captions and the same start noise. Speed-ups of three classes are never
mixed: "exact" (the baseline's pictures up to rounding), "visual" (at least 35 dB to them) and "distribution" (reader
accuracy and Frechet distance within the baseline's own spread over seeds); what is none of them is "worse".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffuse.core.metric import Estimate
from suffuse.core.model import Model
from suffuse.evaluation import statistics
from suffuse.evaluation.features import ReaderFeatures, load_reader
from suffuse.evaluation.frechet import frechet
from suffuse.evaluation.moments import Moments
from suffuse.evaluation.operations import operations
from suffuse.evaluation.timing import paired
from suffuse.images import to_tensor
from suffuse.world import Caption, frozen, render
from suffuse.zoo.judge import judge

Make = Callable[[Sequence[str], Tensor], Tensor]
"""Pictures (n, 3, H, W) in [-1, 1] of n prompts from n start states."""

EXACT, VISUAL = 60.0, 35.0
"""PSNR in dB from which pictures count as the same, and as visually equal."""


@dataclass(frozen=True)
class Arm:
    """One way to make pictures.

    Args:
        by: whose code it is.
        what: sampler, steps, caches.
        make: the way.
    """

    by: str
    what: str
    make: Make


@dataclass(frozen=True)
class Outcome:
    """What one arm cost and gave, against the baseline.

    Args:
        arm: who and what.
        time: share of the baseline's time.
        macs: share of its multiplications, counted where they are executed; compiled and foreign kernels hide some.
        psnr: mean, in dB, to the baseline's pictures of the same start noise.
        right: share of captions with every object there in shape and colour.
        distance: Frechet distance on the reader's features to true renderings of the captions.
        kind: "exact", "visual", "distribution" or "worse".
    """

    arm: Arm
    time: Estimate
    macs: float
    psnr: float
    right: Estimate
    distance: float
    kind: str


@dataclass(frozen=True, eq=False)
class Quality:
    """Pictures of all captions, and what the reader says of them."""

    pixels: Tensor
    right: Estimate
    distance: float


def compare(
    baseline: Arm, arms: Sequence[Arm], shape: Sequence[int], *, captions: int = 128, at_once: int = 4, rounds: int = 5
) -> list[Outcome]:
    """Measure arms against a baseline.

    Args:
        baseline: what everything is a share of.
        arms: the others.
        shape: of one start state.
        captions: of the frozen validation set, for quality.
        at_once: pictures made in one timed call.
        rounds: pairs of timed calls, 5 or more.
    """
    scenes, texts = frozen("validation")
    texts, truth = texts[:captions], render(scenes[:captions]).rgb
    reference = _quality(baseline, texts, truth, shape, seed=0)
    others = [_quality(baseline, texts, truth, shape, seed=s) for s in (1, 2)]
    low = min(q.right.interval[0] for q in (reference, *others))
    spread = [q.distance for q in (reference, *others)]
    limit = max(spread) + (max(spread) - min(spread))
    few = [str(t) for t in texts[:at_once]]
    start = _start(at_once, shape, 0)
    work = operations(lambda: baseline.make(few, start))
    found = []
    for arm in (baseline, *arms):
        quality = reference if arm is baseline else _quality(arm, texts, truth, shape, seed=0)
        error = (quality.pixels - reference.pixels).square().flatten(1).mean(1).clamp_min(1e-10)
        psnr = float((10 * torch.log10(4.0 / error)).mean())
        time = paired(lambda arm=arm: arm.make(few, start), lambda: baseline.make(few, start), rounds=rounds).ratio  # type: ignore[misc]
        macs = operations(lambda arm=arm: arm.make(few, start)) / work  # type: ignore[misc]
        inside = quality.right.mean >= low and quality.distance <= limit
        kind = "exact" if psnr >= EXACT else "visual" if psnr >= VISUAL else "distribution" if inside else "worse"
        found.append(Outcome(arm, time, macs, psnr, quality.right, quality.distance, kind))
    return found


def table(found: Sequence[Outcome]) -> list[Mapping[str, str]]:
    """Rows for people, the baseline first."""
    return [
        {
            "by": o.arm.by,
            "what": o.arm.what,
            "time": str(o.time),
            "times faster": f"{1 / o.time.mean:.2f}",
            "MACs": f"{o.macs:.2f}",
            "PSNR": "same" if o.psnr >= 99 else f"{o.psnr:.1f}",
            "objects right": str(o.right),
            "Frechet": f"{o.distance:.3f}",
            "class": o.kind,
        }
        for o in found
    ]


def stock(pipe: Any, what: str, *, steps: int, guidance: float, scheduler: Any = None, by: str = "diffusers") -> Arm:
    """A diffusers pipeline, with another scheduler where one is given; pictures come as its users get them."""
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipe.scheduler = scheduler

    def make(prompts: Sequence[str], latents: Tensor) -> Tensor:
        start = latents.clone().to(pipe.dtype)
        images = pipe(list(prompts), latents=start, num_inference_steps=steps, guidance_scale=guidance).images
        return to_tensor(images)

    return Arm(by, what, make)


def own(model: Model, what: str, **settings: Any) -> Arm:
    """`Model.generate` with these settings."""

    def make(prompts: Sequence[str], latents: Tensor) -> Tensor:
        return to_tensor(model.generate(list(prompts), latents=latents, **settings).images)

    return Arm("suffuse", what, make)


def _start(n: int, shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def _quality(arm: Arm, texts: Sequence[Caption], truth: Tensor, shape: Sequence[int], seed: int) -> Quality:
    start, parts = _start(len(texts), shape, seed), []
    for rows in torch.arange(len(texts)).split(32):
        parts.append(arm.make([str(texts[i]) for i in rows], start[rows]).clamp(-1, 1))
    pixels = torch.cat(parts)
    reader, _ = load_reader(None)
    with torch.no_grad():
        right = judge(reader.read(pixels), list(texts)).objects.right
    features = ReaderFeatures()
    return Quality(
        pixels, statistics.proportion(right.numpy()),
        frechet(Moments.of(features(pixels)), Moments.of(features(truth))),
    )  # fmt: skip
