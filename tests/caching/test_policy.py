"""The contract of caches: tables, outputs and what layers add to their input."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from suffuse.caching.policy import CacheTable
from suffuse.caching.probe import Recorder
from suffuse.core.engine import sample
from suffuse.guidance import CFG, AdaptiveGuidance
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states


@dataclass(frozen=True)
class Layers(CacheTable):
    """The layers of a transformer, all but the first, compute at some steps."""

    at: tuple[int, ...]

    def sites(self, net):
        return [s for s in net.blocks if s.stage == "body"][1:]

    def steps(self, site, n):
        return frozenset(self.at)


def run(name, patches=(), rows=slice(0, 2), **change):
    how = {"sampler": DDIM(), "steps": 4, "guidance": CFG(3.0), "samples": list(range(4))[rows], **change}
    return sample(fixture(name), states(name, 4)[rows], cond=conditions(name, 4)[rows], patches=patches, **how)


@pytest.mark.parametrize("name", ["dit", "pixart", "sd3", "flux"])
def test_layers_reuse_what_they_add(name):
    cache = Layers((0, 2))
    first, *_, last = [s.name for s in fixture(name).sites.blocks if s.stage == "body"]
    seen = Recorder((first, last))
    out = run(name, [seen, cache]).x
    streams = seen.features(first).shape[2]
    before, after = seen.features(first), seen.features(last)
    if after.shape[2] == streams and name in ("dit", "pixart"):  # one stream: the change is the difference
        added = after - before
        torch.testing.assert_close(added[:, 1], added[:, 0], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(added[:, 2], added[:, 0], atol=1e-4)
        assert not torch.allclose(after[:, 1], after[:, 0], atol=1e-4)
    assert not torch.equal(out, run(name).x)
    assert torch.equal(run(name, [Layers((0, 1, 2, 3))]).x, run(name).x)


@pytest.mark.parametrize("name", ["dit", "sd3"])
def test_rows_without_a_change_are_computed(name):
    patches, guidance = [Layers((0, 2))], AdaptiveGuidance(3.0, threshold=0.999)
    whole = run(name, patches, slice(0, 4), guidance=guidance).x
    for i in range(4):
        alone = run(name, patches, slice(i, i + 1), guidance=guidance).x
        torch.testing.assert_close(alone, whole[i : i + 1], atol=1e-4, rtol=1e-4)
