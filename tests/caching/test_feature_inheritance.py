"""Feature inheritance: levels, step modes, the sensitivity table; and turns of two networks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from suffuse.caching import FeatureInheritance, MultiUNetSwitching, sensitivity_table
from suffuse.caching.feature_inheritance import dense_at_end, dense_at_start, level_of, parts, uniform
from suffuse.codecs import Pixels
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.patch import Patch
from suffuse.evaluation.operations import operations
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import NAMES, conditions, fixture, states


def run(name, patches=(), steps=6, **change):
    how = {"sampler": DDIM(), "steps": steps, "cond": conditions(name, 2), **change}
    return sample(fixture(name), states(name, 2), patches=patches, **how).x


class Ran(Patch):
    """Parts that really ran, step by step."""

    def __init__(self):
        self.names = set()

    def sites(self, net):
        return parts(net)

    def around(self, call):
        self.names.add((call.site.name, call.at.i))
        return call()


@pytest.mark.parametrize(
    ("segments", "computes"),
    [
        (uniform(3), {0, 3, 6, 9}),
        (dense_at_start(0.3, 4), {0, 1, 2, 3, 7}),
        (dense_at_end(0.2, 3), {0, 3, 6, 8, 9}),
        (((0.5, 2), (0.7, 1), (1.0, 3)), {0, 2, 4, 5, 6, 7}),
    ],
)
def test_step_modes(segments, computes):
    assert FeatureInheritance(segments=segments).steps(None, 10) == computes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", ["block", "layer", "unit"])
def test_any_part_of_any_level_inherits(name, level):
    names = tuple(s.name for s in parts(fixture(name).sites) if level_of(s) == level)
    if not names:
        assert level == "layer" and name in ("sd3", "flux", "pixart", "dit")
        return
    ran = Ran()
    out = run(name, [FeatureInheritance(names, uniform(2)), ran])
    assert {i for part, i in ran.names if part in names} == {0, 2, 4}
    assert torch.isfinite(out).all() and not torch.equal(out, run(name))
    assert torch.equal(run(name, [FeatureInheritance(names, uniform(1))]), run(name))


def test_levels_and_modes_are_mixed():
    ran = Ran()
    patches = [FeatureInheritance(("mid_block", "cross"), uniform(3)), FeatureInheritance(("resnet",), uniform(2)), ran]
    run("unet", patches)
    steps = {
        role: {i for part, i in ran.names if role in part} for role in ("mid_block", "attn2", "up_blocks.0.resnets")
    }
    assert steps == {"mid_block": {0, 3}, "attn2": {0, 3}, "up_blocks.0.resnets": {0, 2, 4}}


def test_sensitivity_says_what_is_saved():
    how = {"sampler": DDIM(), "steps": 2, "cond": conditions("unet", 2), "segments": uniform(2), "levels": ("block",)}
    table = sensitivity_table(fixture("unet"), states("unet", 2), **how)
    assert {e.part for e in table} == {s.name for s in fixture("unet").sites.blocks}
    assert all(e.level == "block" and e.error > 0 for e in table)

    def macs(patches):
        return operations(lambda: run("unet", patches, steps=2))

    entry, full = max(table, key=lambda e: e.saved), macs([])
    assert macs([FeatureInheritance((entry.part,), uniform(2))]) / full == pytest.approx(1 - entry.saved, abs=1e-6)
    found = FeatureInheritance.fit(fixture("unet"), states("unet", 2), macs=0.75, **how)
    assert macs([found]) <= 0.75 * full
    with pytest.raises(BadInput, match=r"macs=0\.4"):
        FeatureInheritance.fit(fixture("unet"), states("unet", 2), macs=0.4, **how)


@pytest.mark.parametrize("segments", [(), ((0.5, 2),), ((1.0, 0),), ((0.6, 1), (0.5, 1), (1.0, 1))])
def test_bad_segments_are_named(segments):
    with pytest.raises(BadInput, match="segments"):
        FeatureInheritance(segments=segments)


def test_no_such_part():
    with pytest.raises(Refused, match="no such part"):
        run("dit", [FeatureInheritance(("mid_block",))])


def other():
    light = fixture("unet")
    with torch.no_grad():
        light.net.conv_out.weight.mul_(1.5)
    return light


def test_two_networks_take_turns():
    light = other()
    how = {"sampler": DDIM(), "steps": 4, "cond": conditions("unet", 2)}
    alone = sample(light, states("unet", 2), **how).x
    assert torch.equal(run("unet", steps=4, hooks=[MultiUNetSwitching(light)]), alone)
    assert torch.equal(run("unet", steps=4, hooks=[MultiUNetSwitching(light, every=1)]), run("unet", steps=4))
    half = sample(fixture("unet"), states("unet", 2), **how, stop=0.5)
    rest = sample(light, half.state, **how).x
    assert torch.equal(run("unet", steps=4, hooks=[MultiUNetSwitching(light).during(0.5, 1.0)]), rest)
    with pytest.raises(Refused, match="this run is of"):
        run("sd3", hooks=[MultiUNetSwitching(light)])


def test_latent_spaces_must_agree():
    model = SimpleNamespace(codec=Pixels(3), denoiser=other())
    assert MultiUNetSwitching.between(model, model, 2).every == 2
    with pytest.raises(Refused, match="latent space"):
        MultiUNetSwitching.between(model, SimpleNamespace(codec=Pixels(1), denoiser=other()))
    with pytest.raises(BadInput, match="every=0"):
        MultiUNetSwitching(other(), every=0)
