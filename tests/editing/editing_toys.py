"""Two pictures, their prompts before and after, and a short plan, on the fixture networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.engine import grid_of
from suffuse.core.guidance import Guidance
from suffuse.core.patch import Patch
from suffuse.editing import Plan
from suffuse.guidance.cfg import CFG
from suffuse.samplers.ancestral import DDIM
from suffuse.testing.fixtures import conditions, fixture, states

net = cache(fixture)
STEPS, PAIRS = 5, 2
SPECIAL = {"<bos>": (0, 1)}
NULL = {**SPECIAL, "<eos>": (1, 2), "<pad>": (2, 5)}


def prompts(name: str, words: tuple[str, str] = ("red", "blue"), same: bool = False) -> tuple[Cond, Cond]:
    """Conditions of "a red circle" and "a blue circle", PAIRS rows each; equal ones where they are to be the same."""
    whole = conditions(name, 2 * PAIRS)
    found = []
    for k, word in enumerate(words):
        rows = torch.arange(PAIRS) + (0 if same else k * PAIRS)
        spans = [{**SPECIAL, "a": (1, 2), word: (2, 3), "circle": (3, 4), "<eos>": (4, 5)}] * PAIRS
        found.append(
            Cond(whole[rows].entries, {"null": Cond(whole[rows].alt["null"].entries, {}, [NULL] * PAIRS)}, spans)
        )
    return found[0], found[1]


def plan(name: str, guidance: Guidance = CFG(3.0), steps: int = STEPS) -> Plan:
    denoiser = net(name)
    return Plan(denoiser, grid_of(denoiser.process, DDIM(), None, steps), guidance=guidance)


def pictures(name: str) -> Tensor:
    return 0.5 * states(name, PAIRS)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal to a share of the largest entry: random networks send some runs far out."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


@dataclass(frozen=True, eq=False)
class Seen(Patch):
    """What attention used after all other patches; the innermost of them."""

    found: dict

    def sites(self, net):
        return net.attention()

    def qkv(self, call, q, k, v):
        self.found[call.at.i, call.site.name, "qkv"] = (call.rows, call.site, q, k, v, call.span("image"))
        return q, k, v

    def probs(self, call, p):
        self.found[call.at.i, call.site.name, "probs"] = (call.rows, call.site, p)
        return p
