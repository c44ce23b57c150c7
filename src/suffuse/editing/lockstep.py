"""Decoding a code with source and target branch in lock-step."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.engine import Start, sample
from ..core.guidance import Guidance
from ..core.hook import Hook
from ..core.patch import Adapter, Patch
from ..core.step import Step
from .branches import branches
from .code import Code
from .inverter import Plan


@dataclass(frozen=True, eq=False)
class Decoded:
    """What `decode` returns.

    Attributes:
        target: (B, ...) final states of the edits.
        source: (B, ...) final states of the source branch, the reconstruction.
        nfe: (B,) network evaluations spent on each pair.
    """

    target: Tensor
    source: Tensor
    nfe: Tensor


def decode(
    plan: Plan,
    code: Code,
    source: Cond,
    target: Cond,
    editors: Sequence[Any] = (),
    progress: Callable[[Step], None] | None = None,
) -> Decoded:
    """Run source and target branch from one code, side by side in every batch.

    Args:
        plan: how to run; it must be one that the code fits.
        code: B pictures.
        source, target: what they show and what they are to show, B rows each.
        editors: patches, hooks and guidances that act between the branches, the outermost first; hooks see states that
            the inverter has corrected.
        progress: called with each step before it is made.

    Raises:
        Refused: the code was made for another run, or an editor does not go with the network. BadInput: rows that do
            not match.
    """
    code.check(plan.place)
    rows = len(code.x)
    guidance = reduce(operator.or_, [*(e for e in editors if isinstance(e, Guidance)), plan.guidance])
    run = sample(
        plan.denoiser, Start.exactly(torch.cat([code.x, code.x if code.target is None else code.target]), code.t),
        sampler=plan.sampler, grid=plan.grid, cond=code.beside(branches(source, target, rows)),
        guidance=guidance, noise=plan.noise, setting=plan.setting, progress=progress,
        patches=[e for e in editors if isinstance(e, (Patch, Adapter))],
        hooks=[*(e for e in editors if isinstance(e, Hook)), *code.inverter.hooks],
    )  # fmt: skip
    assert isinstance(run.x, Tensor)
    return Decoded(run.x[rows:], run.x[:rows], run.nfe[:rows] + run.nfe[rows:])
