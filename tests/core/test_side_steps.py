"""Side steps: what a hook does besides the run's own step leaves the run's memory alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from suffuse.core.engine import sample
from suffuse.core.guidance import Guidance
from suffuse.core.hook import Hook
from suffuse.core.prediction import X0
from suffuse.guidance import CFG
from suffuse.processes import VP
from suffuse.samplers import DDIM, DEIS, UniPC
from suffuse.testing.analytic import GaussianMixture

LAW = GaussianMixture(torch.linspace(-1, 1, 8).reshape(2, 4), VP(), std=0.3, kind=X0)
START = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Beside(Hook):
    """Makes side steps before and after the run's own, and forgets what came out."""

    def __call__(self, step, x, at):
        aside = step.using(sampler=DDIM(), guidance=None)
        aside(x, at.aside("before"))
        out = step(x, at)
        aside(out, at.aside("after").back())
        return out


@dataclass(frozen=True)
class Counting(Guidance):
    """Counts its calls in the run's memory, and weighs the prediction by them."""

    def __call__(self, predict, x, t, cond, at):
        count = at.memory.get("count", torch.zeros(len(at.samples), 1)) + 1
        at.memory["count"] = count
        p = predict(x, t, cond)
        return p.with_(eps=p.eps * (1 + 0.1 * count))


@dataclass(frozen=True)
class Asked(Hook):
    """The same with the run's own sampler and guidance, before its own step."""

    def __call__(self, step, x, at):
        step(x, at.aside("side"))
        return step(x, at)


@pytest.mark.parametrize("sampler", [DEIS(3), UniPC(2)])
def test_a_multistep_sampler_does_not_see_side_steps_of_another(sampler):
    run = dict(sampler=sampler, steps=6)
    plain, beside = (sample(LAW, START, hooks=hooks, **run) for hooks in ([], [Beside()]))
    assert torch.equal(plain.x, beside.x)
    assert beside.nfe.tolist() == [3 * n for n in plain.nfe.tolist()]


@pytest.mark.parametrize("sampler", [DDIM(), DEIS(3)])
def test_what_a_guidance_remembers_aside_is_apart(sampler):
    run = dict(sampler=sampler, steps=4, guidance=CFG(1.0) | Counting())
    assert torch.equal(sample(LAW, START, **run).x, sample(LAW, START, hooks=[Asked()], **run).x)


@dataclass(frozen=True)
class Turned(Hook):
    """Reports whether a run begins, at the step and at one aside."""

    seen: list

    def __call__(self, step, x, at):
        self.seen.append((at.first, at.aside("a").first, at.aside("a").aside("b").path))
        return step(x, at)


def test_no_run_begins_aside():
    seen = []
    sample(LAW, START, sampler=DDIM(), steps=2, hooks=[Turned(seen)])
    assert seen == [(True, False, "a/b"), (False, False, "a/b")]
