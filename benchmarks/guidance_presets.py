"""What the guidances give on the bundled `shapes` model: python benchmarks/guidance_presets.py

Validation captions, DDIM, the same noise for all. `wrong`: pictures in which an object of
the caption is not there in shape and colour, by the bundled reader, with 95 % interval. `contrast`: standard deviation
of a picture's pixels, which oversaturation raises.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch

from suffuse.claims import microworld as mw
from suffuse.core.guidance import Guidance
from suffuse.evaluation import statistics
from suffuse.guidance import (
    APG,
    CFG,
    PAG,
    SEG,
    Autoguidance,
    CFGPlusPlus,
    CFGZeroStar,
    GuidanceInterval,
    GuidanceRescale,
    IdentityAttention,
)
from suffuse.samplers import DDIM

ARMS: Mapping[str, Guidance] = {
    "none": CFG(1),
    "CFG(3)": CFG(3),
    "CFG(8)": CFG(8),
    "GuidanceRescale(0.7) | CFG(8)": GuidanceRescale(0.7) | CFG(8),
    "GuidanceInterval(0.28, 5.42) | CFG(8)": GuidanceInterval(0.28, 5.42) | CFG(8),
    "CFGPlusPlus(0.4)": CFGPlusPlus(0.4),
    "CFGZeroStar(3, 0)": CFGZeroStar(3, 0.0),
    "APG(8, radius=15)": APG(8),
    "Autoguidance(IdentityAttention(), 2)": Autoguidance(IdentityAttention(), 2),
    "PAG(2) | CFG(3)": PAG(2) | CFG(3),
    "SEG(2) | CFG(3)": SEG(2) | CFG(3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=48, help="how many validation captions")
    parser.add_argument("--steps", type=int, default=20, help="steps of a run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded, texts = mw.model(), mw.captions(given.captions)
    print(f"{'guidance':40s} {'evaluations':>11s}   wrong                    contrast")
    for name, guidance in ARMS.items():
        run = mw.run(loaded, texts, steps=given.steps, sampler=DDIM(), guidance=guidance, seed=given.seed)
        contrast = run.pixels.flatten(1).std(1).numpy()
        wrong = statistics.proportion(run.wrong.bool().numpy())
        print(f"{name:40s} {run.nfe.double().mean():11.0f}   {wrong!s:24s} {statistics.mean(contrast)}")


if __name__ == "__main__":
    main()
