"""Faster Diffusion: what runs at key steps, decoders ahead of time, and the injection of the first noise."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from suffuse.caching import DeepCache, FasterDiffusion, PriorNoiseInjection
from suffuse.caching.faster_diffusion import KEYS
from suffuse.core.engine import Start, sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.guidance import Guidance
from suffuse.core.hook import Hook
from suffuse.core.patch import Patch
from suffuse.evaluation.operations import operations
from suffuse.guidance import CFG, AdaptiveGuidance
from suffuse.processes.continuous import VP
from suffuse.samplers import DDIM, DDPM, DPMSolverPP, Heun
from suffuse.testing.fixtures import conditions, fixture, states

UNETS = ("unet", "unet-sdxl", "unet-v", "unet-class")
SPARSE = FasterDiffusion(every=3)


def run(name, patches=(), rows=slice(0, 2), net=None, **change):
    how = {"sampler": DDIM(), "steps": 7, "guidance": CFG(3.0), "samples": list(range(4))[rows], **change}
    x = how.pop("x", states(name, 4)[rows])
    return sample(net or fixture(name), x, cond=conditions(name, 4)[rows], patches=patches, **how)


def close(a, b, tolerance=1e-4):
    assert (a - b).abs().max() <= tolerance * b.abs().max()


class Ran(Patch):
    """Rows of every unit that ran, step by step."""

    def __init__(self):
        self.rows = {}

    def sites(self, net):
        return net.units

    def around(self, call):
        key = call.site.stage, call.at.i
        self.rows[key] = max(self.rows.get(key, 0), len(call.rows))
        return call()


@pytest.mark.parametrize("name", UNETS)
def test_the_encoder_runs_at_key_steps_only(name):
    ran = Ran()
    run(name, [SPARSE, ran])
    assert {i for stage, i in ran.rows if stage in ("in", "down", "mid")} == {0, 3, 6}
    assert {i for stage, i in ran.rows if stage in ("up", "out")} == set(range(7))


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("ahead", [2, 10])
def test_decoders_ahead_of_time_are_the_decoders_of_their_steps(name, ahead):
    serial, ran = run(name, [SPARSE]), Ran()
    parallel = run(name, [FasterDiffusion(every=3, ahead=ahead), ran])
    close(parallel.x, serial.x)
    assert parallel.nfe.tolist() == serial.nfe.tolist()
    assert {i for stage, i in ran.rows if stage == "up"} == {0, 3, 6}
    assert ran.rows["up", 0] == 8 and ran.rows["down", 0] == 4  # two steps of two samples on two branches


@pytest.mark.parametrize("sampler", [DDPM(), DPMSolverPP(), Heun()], ids=str)
def test_other_samplers(sampler):
    close(run("unet", [FasterDiffusion(every=3, ahead=4)], sampler=sampler).x, run("unet", [SPARSE], sampler=sampler).x)


def test_batches_are_bounded():
    ran = Ran()
    run("unet", [FasterDiffusion(every=7, ahead=2), ran], guidance=None)
    assert ran.rows["up", 0] == 4 and ran.rows["out", 0] == 4


def test_another_process_an_own_start_and_other_steps_run_step_by_step():
    """Where later times are not known at the network, it is the serial mode; and from a start it begins with a key."""
    for how in (
        {"net": fixture("unet").under(VP())},
        {"x": Start.noised(states("unet", 2), 0.55)},
        {"guidance": AdaptiveGuidance(3.0, threshold=0.999)},
        {"hooks": [Again()]},
        {"guidance": Late(), "rows": slice(0, 3)},
    ):
        serial, parallel = (run("unet", [FasterDiffusion(every=3, ahead=a)], **how) for a in (1, 4))
        close(parallel.x, serial.x)


@dataclass(frozen=True)
class Again(Hook):
    """Every step there, back, and there again."""

    def __call__(self, step, x, at):
        return step(step(step(x, at), at.back()), at)


@dataclass(frozen=True)
class Late(Guidance):
    """Asks for the other branch of the second picture from step 1 on, and of all from step 2."""

    def __call__(self, predict, x, t, cond, at):
        p = predict(x, t, cond, "cond")
        rows = torch.tensor([i for i, s in enumerate(at.samples) if at.i > 1 or (at.i and s == 1)], dtype=torch.long)
        if not len(rows):
            return p
        null = predict[rows](x[rows], t[rows], cond[rows].branch("null"), "null")
        return p.put(rows, p[rows].mix([3.0, -2.0], [p[rows], null]))


def test_on_one_branch_only():
    whole = run("unet", [FasterDiffusion(every=3, ahead=4).only("cond")])
    close(whole.x, run("unet", [SPARSE.only("cond")]).x)
    assert not torch.equal(whole.x, run("unet", [SPARSE]).x)


def test_beside_another_cache():
    both = [FasterDiffusion(every=3, ahead=4), DeepCache(every=2)]
    assert torch.isfinite(run("unet", both).x).all()


@pytest.mark.parametrize("ahead", [1, 4])
def test_a_batch_is_its_singles_and_neutral_is_plain(ahead):
    cache = FasterDiffusion(every=3, ahead=ahead)
    whole = run("unet", [cache]).x
    close(run("unet", [cache], rows=slice(1, 2)).x, whole[1:], 1e-5)
    assert torch.equal(run("unet", [cache.neutral()]).x, run("unet").x)


def test_keys_are_rescaled():
    cache = FasterDiffusion()
    assert cache.steps(None, 50) == set(KEYS)
    assert cache.steps(None, 20) == {0, 1, 2, 4, 6, 10, 14}
    assert cache.steps(None, 100) == {2 * k for k in KEYS}


def test_fit_finds_as_many_keys_as_asked():
    place = {"denoiser": fixture("unet"), "x": states("unet", 2), "cond": conditions("unet", 2)}
    found = FasterDiffusion.fit(**place, keys=4, steps=9, ahead=2, sampler=DDIM())
    assert len(found.keys) == 4 and found.keys[0] == 0 and found.of == 9 and found.ahead == 2


def test_less_work():
    def macs(patches):
        return operations(lambda: run("unet", patches))

    serial = macs([SPARSE])
    assert serial < 0.85 * macs([]) and macs([FasterDiffusion(every=3, ahead=4)]) == serial


@pytest.mark.parametrize("bad", [{"keys": (1, 2)}, {"keys": (0, 50)}, {"ahead": 0}, {"every": 0}])
def test_bad_numbers_are_named(bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        FasterDiffusion(**bad)


def test_transformers_are_refused():
    with pytest.raises(Refused, match="no encoder"):
        run("sd3", [SPARSE])


class Still(Hook):
    """A step that changes nothing, and what it was given."""

    def __init__(self):
        self.given = []

    def __call__(self, step, x, at):
        self.given.append(x)
        return x


def test_the_injection_adds_the_first_state_to_the_later_steps():
    still, x = Still(), states("unet", 2)
    run("unet", hooks=[PriorNoiseInjection(0.1, 0.5), still], steps=4)
    for given, factor in zip(still.given, (1.0, 1.0, 1.1, 1.2), strict=True):
        torch.testing.assert_close(given, factor * x)
