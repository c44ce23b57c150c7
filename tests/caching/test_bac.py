"""BAC: exact schedules, the bubbling union, and what runs when."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from suffuse import load_method, save_method
from suffuse.caching import BAC
from suffuse.caching.bac import branches, bubbling_union
from suffuse.caching.probe import Similarity
from suffuse.caching.update_steps import update_steps
from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.patch import Patch
from suffuse.core.plugin import Setting
from suffuse.core.prediction import EPS
from suffuse.evaluation.operations import operations
from suffuse.guidance import CFG
from suffuse.networks import PolicyTransformer, PolicyTransformerFamily
from suffuse.processes.continuous import VP
from suffuse.processes.tables import Table
from suffuse.samplers import DDIM, DDPM
from suffuse.testing.analytic import GaussianMixture
from suffuse.testing.fixtures import conditions, fixture, states

HOW = {"sampler": DDIM(), "steps": 6, "guidance": CFG(3.0)}


def worth(similarity, steps):
    ends = [*sorted(steps)[1:], len(similarity)]
    return sum(similarity[i, k].item() for i, j in zip(sorted(steps), ends, strict=True) for k in range(i + 1, j))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 4, 10])
def test_the_best_steps_are_those_of_brute_force(seed, count):
    similarity = torch.rand(10, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = update_steps(similarity, count)
    assert 0 in found and len(found) == count
    best = max(worth(similarity, (0, *rest)) for rest in combinations(range(1, 10), count - 1))
    assert worth(similarity, found) == pytest.approx(best, abs=1e-12)


def test_two_groups_of_steps_are_found():
    similarity = torch.block_diag(torch.ones(3, 3), torch.ones(5, 5))
    assert update_steps(similarity, 2) == {0, 3}
    with pytest.raises(BadInput, match="count=9"):
        update_steps(similarity, 9)


def test_the_union_bubbles_up():
    table = {"a": frozenset({0, 1}), "b": frozenset({0, 2}), "c": frozenset({0, 3}), "d": frozenset({0, 4})}
    errors = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 0.5}
    found = {name: Similarity(torch.eye(2), torch.full((2, 2), e), torch.eye(2)) for name, e in errors.items()}
    assert bubbling_union(table, found, 0, "bd") == table
    assert bubbling_union(table, found, 2, "bd") == {**table, "a": {0, 1, 2, 4}, "c": {0, 3, 4}}
    assert bubbling_union(table, found, 4, "bd")["d"] == {0, 4}


class Ran(Patch):
    """Which layers really ran, step by step."""

    def __init__(self):
        self.names = set()

    def sites(self, net):
        return branches(net)

    def around(self, call):
        self.names.add((call.site.name, call.at.i))
        return call()


@pytest.mark.parametrize("name", ["unet", "dit", "sd3", "flux", "pixart"])
def test_layers_run_by_their_own_schedules(name):
    place = {"denoiser": fixture(name), "x": states(name, 2), "cond": conditions(name, 2)}
    policy = BAC.fit(**place, **HOW, updates=2)
    ran = Ran()
    sample(**place, **HOW, patches=[policy, ran])
    assert ran.names == {(layer, i) for layer, steps in policy.table for i in steps}
    assert all(steps[0] == 0 and steps[-1] == HOW["steps"] - 1 for _, steps in policy.table)


def test_a_policy_is_kept_in_a_file_and_bound_to_its_runs(tmp_path):
    place = {"denoiser": fixture("dit"), "x": states("dit", 2), "cond": conditions("dit", 2)}
    policy = BAC.fit(**place, **HOW, updates=3, setting=Setting(model="this"))
    assert load_method(save_method(policy, tmp_path / "policy.safetensors")) == policy
    with pytest.raises(Refused, match="fitted for model this"):
        sample(**place, **HOW, patches=[policy])
    with pytest.raises(Refused, match="times"):
        sample(**place, **{**HOW, "steps": 5}, patches=[policy], setting=Setting(model="this"))
    with pytest.raises(Refused, match="no layer"):
        BAC((("absent", (0,)),), policy.made_for).sites(place["denoiser"].sites)
    with pytest.raises(BadInput, match="step 6 of 6"):
        BAC((("absent", (6,)),), policy.made_for)
    with pytest.raises(Refused, match="no attention"):
        BAC.fit(GaussianMixture(torch.zeros(1, 4), VP()), (1, 4), updates=1, sampler=DDIM(), steps=2)


def test_a_diffusion_policy_starts_every_chunk_anew():
    torch.manual_seed(0)
    net = Network(PolicyTransformer((8, 2), (2, 4), 16, 2, 2), PolicyTransformerFamily(), Table(), EPS).eval()
    cond = Cond({"observation": torch.randn(3, 2, 4)})
    run = {"sampler": DDPM(), "steps": 20, "cond": cond}
    policy = BAC.fit(net, (3, 8, 2), **run, updates=4)
    assert len(policy.table) == 6 and policy.table[0][0] == "layers.0.attn1"

    def flops(patches):
        return operations(lambda: sample(net, (3, 8, 2), **run, patches=patches))

    assert flops([policy]) < 0.5 * flops([])
    first = sample(net, (3, 8, 2), **run, patches=[policy]).x
    assert torch.equal(sample(net, (3, 8, 2), **run, patches=[policy]).x, first)
    assert torch.equal(sample(net, (3, 8, 2), **run, patches=[policy.neutral()]).x, sample(net, (3, 8, 2), **run).x)
