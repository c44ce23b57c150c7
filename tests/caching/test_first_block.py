"""FirstBlockCache: the same as diffusers on one picture, and each row for itself in a batch."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache
from diffusers.models.cache_utils import CacheMixin

from suffuse.caching import FirstBlockCache
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.patch import Patch
from suffuse.evaluation.operations import operations
from suffuse.guidance import CFG
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states

TRANSFORMERS = ("sd3", "flux", "pixart", "dit")


def run(name, patches=(), rows=slice(0, 3), steps=12, denoiser=None, **change):
    settings = {"sampler": DDIM(), "steps": steps, "guidance": CFG(3.0), **change}
    ids, net = list(range(3))[rows], denoiser or fixture(name)
    return sample(net, states(name, 3)[rows], cond=conditions(name, 3)[rows], patches=patches, samples=ids, **settings)


class Ran(Patch):
    """Rows for which the second block ran, step by step."""

    def __init__(self):
        self.rows = []

    def sites(self, net):
        return [net.blocks[1]]

    def around(self, call):
        self.rows.append((call.at.i, call.rows))
        return call()


@pytest.mark.parametrize("name", ["flux", "dit"])  # theirs fails at the last block of SD3, which returns no text
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_one_picture_is_that_of_diffusers(name, threshold):
    theirs = fixture(name)
    apply_first_block_cache(theirs.net, FirstBlockCacheConfig(threshold=threshold))
    ran = Ran()
    ours = run(name, [FirstBlockCache(threshold), ran], slice(0, 1), guidance=None).x
    assert len(ran.rows) < 12
    with CacheMixin.cache_context(theirs.net, "only"):
        expected = run(name, rows=slice(0, 1), guidance=None, denoiser=theirs).x
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_rows_decide_for_themselves(name):
    whole = run(name, [FirstBlockCache(0.3)]).x
    for i in range(3):
        alone = run(name, [FirstBlockCache(0.3)], slice(i, i + 1)).x
        assert (alone - whole[i : i + 1]).abs().max() <= 1e-5 * whole.abs().max()


def test_rows_differ():
    ran = Ran()
    run("sd3", [FirstBlockCache(0.3), ran])
    assert {len(rows) for _, rows in ran.rows} - {6}  # a step at which some rows ran and others did not


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_threshold_0_is_bit_identical(name):
    assert torch.equal(run(name, [FirstBlockCache(0.0)]).x, run(name).x)


def test_blocks_are_not_run():
    whole = operations(lambda: run("sd3", steps=4))
    assert operations(lambda: run("sd3", [FirstBlockCache(1e6)], steps=4)) < 0.6 * whole


def test_what_cannot_be_is_refused():
    with pytest.raises(BadInput, match="threshold"):
        FirstBlockCache(-1.0)
    with pytest.raises(Refused, match="DeepCache"):
        run("unet", [FirstBlockCache()])
