"""Claims of guidance methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from suffuse.core.engine import sample
from suffuse.core.guidance import Guidance
from suffuse.core.model import Model
from suffuse.core.value import flat
from suffuse.evaluation import statistics
from suffuse.evaluation.image import SSIM
from suffuse.evaluation.pictures import Pictures
from suffuse.guidance.adaptive import AdaptiveGuidance, LinearAG, Recording
from suffuse.guidance.cfg import CFG
from suffuse.samplers.ancestral import DDIM
from suffuse.world import Caption

from . import microworld as mw
from .claim import Cell, Figure, Table, at_least, at_most, between, claim

STEPS, SHARE = 20, 0.75
FLOW_STEPS, SCALE = 12, 7.5
"""On the flow: steps at which it is about as far from converged as the paper's model in 20, and the paper's scale."""

Arm: TypeAlias = tuple[Guidance, int]
"""A guidance and the number of steps that it is run in."""


@claim(
    paper="adaptive-guidance",
    expect={
        "SSIM gain over 9-step CFG": at_least(0.02),
        "share of evaluations": between(0.65, 0.78),
        "LinearAG error / repeating": at_most(0.7),
    },
    budget=600,
)
def adaptive_guidance(seed: int) -> Table:
    """Adaptive Guidance at about 75 % of CFG's evaluations against CFG in 75 % of the steps, both compared with full
    CFG: SSIM of the decoded pictures, 64 validation captions, DDIM, the same noise. The threshold is calibrated on 32
    other captions, with the angle in x0-space, where it rises during a run of these models.

    The paper takes 20 steps at a scale of 7.5, and there its model is far from converged: in its Figure 6, 15 steps
    have an SSIM of about 0.74 to 20. Where a model is converged, fewer steps lose nothing, and nothing gains on them:
    so it is with `shapes` at its usual scale of 3 (rows). On captions that are used for nothing else (97 to 112) the
    flow at 7.5 has an SSIM of 0.90 in 15 of 20 steps, 0.85 in 9 of 12, and 0.61 in 6 of 8. It is judged at 12 steps, of
    these the nearest to the paper's model; in 20 steps Adaptive Guidance gained 0.01 there. It does not win wherever
    fewer steps lose: `shapes` at 7.5, in 8 steps of DPM-Solver++, had 0.79 in 6 steps and 0.76 with Adaptive Guidance
    on 24 such captions.

    LinearAG, on `shapes` in 20 steps: error of the estimated unconditional prediction over the replaced steps of the
    first half, against repeating the last one evaluated, on the 64 captions; its coefficients are fitted on the other
    32. One row has the paper's own policy: every second step of the first half, and all of the second, are estimated.
    """
    texts = mw.captions(96)
    test, held = texts[:64], texts[64:]
    flow, shapes = mw.model("shapes-flow"), mw.model()
    of_flow, of_shapes = _recorded(flow, held, FLOW_STEPS, seed), _recorded(shapes, held, STEPS, seed)
    adaptive = AdaptiveGuidance.fit(**of_flow, w=SCALE, share=SHARE, space="x0")
    linear = LinearAG.fit(**of_shapes, w=mw.GUIDANCE)
    paced = LinearAG.fit(**of_shapes, w=mw.GUIDANCE, replaced=[*range(1, 10, 2), *range(10, STEPS)])
    on_flow: dict[str, Arm] = {
        **{f"CFG, {n} steps": (CFG(SCALE), n) for n in (FLOW_STEPS, 10, 9)},
        "AdaptiveGuidance": (adaptive, FLOW_STEPS),
    }
    on_shapes: dict[str, Arm] = {
        **{f"CFG, {n} steps": (CFG(mw.GUIDANCE), n) for n in (STEPS, 15)},
        "AdaptiveGuidance": (AdaptiveGuidance.fit(**of_shapes, w=mw.GUIDANCE, share=SHARE, space="x0"), STEPS),
        "LinearAG": (linear, STEPS),
        "LinearAG, the paper's policy": (paced, STEPS),
    }
    found = {"flow": _against_first(flow, on_flow, test, seed), "shapes": _against_first(shapes, on_shapes, test, seed)}
    rows: list[Mapping[str, Cell]] = [
        {"model": name, "guidance": arm, **{what: statistics.mean(values) for what, values in scores.items()}}
        for name, arms in found.items()
        for arm, scores in arms.items()
    ]
    likeness = {arm: scores["SSIM to full CFG"] for arm, scores in found["flow"].items()}
    estimated, repeated = _linear_errors(shapes, test, linear, seed)
    figures: dict[str, Figure] = {
        "SSIM gain over 9-step CFG": statistics.difference(likeness["AdaptiveGuidance"], likeness["CFG, 9 steps"]),
        "share of evaluations": statistics.mean(found["flow"]["AdaptiveGuidance"]["evaluations"]),
        "threshold": adaptive.threshold,
        "LinearAG error / repeating": statistics.ratio(estimated, repeated),
    }
    return Table(rows, figures)


def _recorded(loaded: Model, texts: Sequence[Caption], steps: int, seed: int) -> dict[str, Any]:
    """The runs that both fits are made from, with other noise than the judged ones."""
    return {**mw.place(loaded, texts), "sampler": DDIM(), "steps": steps, "noise": seed + 1000}


def _against_first(
    loaded: Model, arms: Mapping[str, Arm], texts: Sequence[Caption], seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Evaluations as a share of the first arm's, and SSIM to its pictures."""
    runs = {name: mw.run(loaded, texts, steps=n, guidance=g, seed=seed) for name, (g, n) in arms.items()}
    full = next(iter(runs.values()))
    return {
        name: {
            "evaluations": (run.nfe.double() / full.nfe).numpy(),
            "SSIM to full CFG": SSIM().score(Pictures(run.pixels, references=full.pixels)).numpy(),
        }
        for name, run in runs.items()
    }


def _linear_errors(loaded: Model, texts: list[Caption], linear: LinearAG, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) error of the estimate, and of repeating the last evaluated prediction, in eps, over the replaced steps."""
    recorder = Recording(CFG(mw.GUIDANCE))
    sample(**mw.place(loaded, texts), guidance=recorder, sampler=DDIM(), steps=STEPS, noise=seed)
    estimated, repeated = torch.zeros(len(texts)).double(), torch.zeros(len(texts)).double()
    known: list[Tensor] = []  # what LinearAG has of the unconditional predictions, estimates included
    last = torch.zeros(())
    for i, (_, pu) in enumerate(recorder.pairs):
        if not linear.table[i]:
            last = pu.eps
            known.append(pu.value)
            continue
        history = [c.value for c, _ in recorder.pairs[: i + 1]] + known
        known.append(sum(b * e for b, e in zip(linear.table[i], history, strict=True)))
        estimated += flat(replace(pu, value=known[-1]).eps - pu.eps).double().pow(2).sum(1)
        repeated += flat(last - pu.eps).double().pow(2).sum(1)
    return estimated.sqrt().numpy(), repeated.sqrt().numpy()
