"""Runs of the editing toys in which something is pointed at."""

from __future__ import annotations

import torch

from suffuse.core.cond import Cond
from suffuse.editing import DirectInversion, decode
from suffuse.editing.branches import PLACE
from suffuse.guidance.cfg import CFG

from .editing_toys import pictures, plan, prompts

SIZE = 8
"""Pictures as large as the states of the fixtures."""


def mask():
    """Squares of 2 x 2 at (1, 1) and of 3 x 2 at (2, 3), x and y."""
    out = torch.zeros(2, 1, SIZE, SIZE)
    out[0, :, 1:3, 1:3] = 1
    out[1, :, 3:5, 2:5] = 1
    return out


def pointed(name="unet", points=None):
    entries = {"mask": mask()} | ({} if points is None else {"points": torch.tensor(points).expand(2, -1, -1)})
    a, b = prompts(name)
    return [c.with_alt(**{PLACE: Cond(entries)}) for c in (a, b)]


def run(*editors, inversion=None, points=None, rows=slice(None), guidance=CFG(3.0), steps=5, name="unet"):
    inversion = inversion or DirectInversion()
    a, b = (c[rows] for c in pointed(name, points))
    p = plan(name, guidance, steps)
    return decode(p, inversion.encode(p, pictures(name)[rows], a), a, b, editors)
