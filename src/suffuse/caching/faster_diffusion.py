"""Faster Diffusion: the UNet's encoder only at key steps, and the decoders between two of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Self

import torch

from ..core.call import Call
from ..core.denoiser import Denoiser
from ..core.errors import BadInput, Refused
from ..core.hook import Hook, StepFunction
from ..core.memory import take
from ..core.plugin import Needs
from ..core.registry import method
from ..core.site import Site, Sites
from ..core.step import Step
from ..core.value import Coef, Value, combine
from .policy import CacheTable
from .probe import similarity_probe
from .update_steps import update_steps

KEYS = (0, 1, 2, 3, 5, 10, 15, 25, 35)
"""The paper's key steps, of 50."""


@method(paper="faster-diffusion", tags=("saves depth",))
@dataclass(frozen=True)
class FasterDiffusion(CacheTable):
    """Key steps run the whole UNet; the steps between run its decoder on the encoder's outputs of the last key step,
    with their own time: eps_t = D(E(x_key, key), t).

    As that does not depend on x_t, all decoders up to the next key step may run at the key step, as one batch; their
    predictions wait in the run's memory. It is the same up to rounding.

    Args:
        keys: steps of an `of`-step run at which the encoder runs; runs of other lengths have them at equal shares.
        of: see `keys`.
        every: every so many steps is a key step, instead of `keys`.
        ahead: most decoders in one batch, for each picture and branch; 1 runs them step by step.

    Raises:
        BadInput: numbers out of range. Refused: a network without an encoder and a decoder.

    Example:
        >>> model.generate("a red circle", steps=50, patches=[FasterDiffusion()], hooks=[PriorNoiseInjection()])

    Reference: Li et al., Faster Diffusion: Rethinking the Role of UNet Encoder in Diffusion Models, 2312.09608.

    Differs from the paper: samplers of several evaluations a step, networks read in another process, and times that
    differ between pictures run step by step.
    """

    keys: tuple[int, ...] = KEYS
    of: int = 50
    every: int | None = None
    ahead: int = 1

    def __post_init__(self) -> None:
        if not self.keys or min(self.keys) != 0 or max(self.keys) >= self.of:
            raise BadInput(
                f"FasterDiffusion(keys={self.keys}, of={self.of}): give steps from 0 to {self.of - 1}, 0 too"
            )
        for name, value in (("every", self.every), ("ahead", self.ahead)):
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise BadInput(f"FasterDiffusion({name}={value!r}): give a whole number of steps, at least 1")

    def neutral(self) -> FasterDiffusion:
        """Every step is a key step."""
        return replace(self, every=1)

    def sites(self, net: Sites) -> Sequence[Site]:
        down = [s for s in net.blocks if s.stage == "down"]
        if not down:
            raise Refused("FasterDiffusion: this network has no encoder; use it on a UNet, or a block cache elsewhere")
        entry = [s for s in net.units if s.stage == "in"]
        return [net.root, *entry, *down, *(s for s in net.blocks if s.stage == "mid")]

    def steps(self, site: Site, n: int) -> frozenset[int]:
        return frozenset(range(0, n, self.every) if self.every else (k * n // self.of for k in self.keys))

    def around(self, call: Call) -> Any:
        if call.site.kind == "root":
            return self._whole(call)
        copies = call.scratch.get(COPIES)
        if copies is None:
            return super().around(call)
        return take(call.scratch[call.site.name], copies)

    def _computed(self, call: Call) -> Any:
        call.scratch[call.site.name] = out = super()._computed(call)
        return out

    def _whole(self, call: Call) -> Any:
        """The network: served where a key step has run ahead, and else run."""
        at = call.at
        if at is None or self.ahead == 1 or at.mover is None or not _same(call.t, at.grid.node(at.i)):
            return call()
        if not self.fresh(call.site, at):
            return call.split(call.memory.held(_waiting(at.i)), _served, Call.__call__)
        out = call()
        later = iter(range(at.i + 1, min((k for k in self.steps(call.site, at.n) if k > at.i), default=at.n)))
        while some := list(islice(later, self.ahead)):
            self._run_ahead(call, at, some)
        return out

    def _run_ahead(self, call: Call, at: Step, later: list[int]) -> None:
        """The decoders of later steps as one batch, on what the encoder has just returned."""
        n = len(call.rows)
        call.scratch[COPIES] = torch.arange(n).repeat(len(later))
        times = Coef.cat([at.grid.node(j) for j in later], [n] * len(later))
        p = call.repeat([_waiting(j) for j in later])(t=times)
        del call.scratch[COPIES]
        for k, j in enumerate(later):
            call.memory[_waiting(j)] = p[n * k : n * (k + 1)]

    @classmethod
    def fit(
        cls, denoiser: Denoiser, x: Any, *, keys: int = len(KEYS), steps: int = 50, ahead: int = 1, **run: Any
    ) -> Self:
        """Choose the key steps from recorded runs: least relative change of what the decoder is given, exactly.

        Args:
            denoiser, x, run: as for `similarity_probe`.
            keys: how many.
            steps: of the recorded runs and those it is meant for.
            ahead: of the result.
        """
        if denoiser.sites is None:
            raise Refused("FasterDiffusion.fit: this denoiser has no network; give a loaded model's denoiser")
        names = [s.name for s in cls().sites(denoiser.sites) if s.module is not None]
        found = similarity_probe(denoiser, x, names, steps=steps, **run)
        change = torch.stack([alike.l2 for alike in found.values()]).mean(0)
        return cls(tuple(sorted(update_steps(-change.mT, keys))), steps, ahead=ahead)


COPIES = "copies"
"""In the scratch of a call that runs ahead: which of the call's own rows each of its rows repeats."""


def _waiting(j: int) -> str:
    return f"step {j}"


def _same(t: Coef, own: Coef) -> bool:
    """Whether the network is asked at this time of the grid, one for all."""
    return t.shared and own.shared and bool(t.d == own.d)


def _served(call: Call) -> Any:
    """The prediction that waits for this step, at the state at hand."""
    assert call.at is not None
    return replace(call.memory[_waiting(call.at.i)], x=call["x"])


@method(paper="faster-diffusion")
@dataclass(frozen=True)
class PriorNoiseInjection(Hook):
    """x_t <- x_t + weight x_T before the later steps: gives back some of the texture that reuse smooths away.

    Args:
        weight: of the state that the run began with; 0 changes nothing.
        start: share of the run from which on, 0 to 1; the paper begins below t = 500 of 1000.

    Example:
        >>> model.generate("a red circle", patches=[FasterDiffusion()], hooks=[PriorNoiseInjection()])

    Reference: Li et al., Faster Diffusion: Rethinking the Role of UNet Encoder in Diffusion Models, 2312.09608.
    """

    weight: float = 0.003
    start: float = 0.5

    needs = Needs.GAUSSIAN

    def neutral(self) -> PriorNoiseInjection:
        """The setting that changes nothing."""
        return replace(self, weight=0.0)

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if "prior" not in at.memory:
            at.memory["prior"] = x
        if not self.weight or at.progress < self.start:
            return step(x, at)
        return step(combine((1.0, x), (self.weight, at.memory["prior"])), at)
