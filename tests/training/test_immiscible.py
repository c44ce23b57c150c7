"""Pairing noise with data: what is assigned, that nothing else moves, over one process and over two.

`python test_immiscible.py FOLDER` trains over two processes.
"""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.errors import BadInput
from suffuse.core.noise import Keyed
from suffuse.core.prediction import EPS, FLOW
from suffuse.core.training import Batch, Phase, Roles
from suffuse.core.value import Coef, Tree
from suffuse.processes.continuous import VP, Flow
from suffuse.training.denoising import Denoising, Independent, Pairing, UniformTimes
from suffuse.training.immiscible import Immiscible, NearestNoise, assignment, distances
from suffuse.training.optimisers import AdamW
from suffuse.training.sources import Shuffled
from suffuse.training.trainer import Trainer


class Linear(Denoiser):
    """A linear network that remembers what it was asked."""

    def __init__(self, process=Flow(), kind=FLOW):
        super().__init__()
        self.process, self.kind, self.net = process, kind, nn.Linear(3, 3)
        nn.init.eye_(self.net.weight)
        nn.init.zeros_(self.net.bias)
        self.asked = []

    def forward(self, x, t, cond=EMPTY):
        self.asked.append((x, Coef(t), cond))
        return self.process.predict(x, Coef(t), self.net(x), self.kind)


@dataclass(frozen=True)
class Halves(Pairing):
    """What two processes would do that do not speak to each other."""

    inner: Pairing = field(default_factory=Immiscible)

    def __call__(self, x0, eps, draw):
        n = len(x0) // 2
        return torch.cat([self.inner(x0[:n], eps[:n], draw), self.inner(x0[n:], eps[n:], draw)])


def random(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def draw_of(seed: int, n: int):
    return lambda like, tag="", kind="normal": getattr(Keyed(seed), kind)(like, range(n), tag)


def test_the_assignment_is_the_cheapest_of_all():
    x, e = random(6, 2), random(6, 2, seed=1)
    best = min(itertools.permutations(range(6)), key=lambda p: (x - e[list(p)]).norm(dim=1).sum())
    assert torch.equal(Immiscible()(x, e, None), e[list(best)])


@given(n=st.integers(1, 12), width=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_permutation_keeps_every_noise_to_the_bit(n, width, seed):
    x, e = random(n, width, seed=seed), random(n, width, seed=seed + 1)
    paired = Immiscible()(x, e, None)
    assert sorted(map(tuple, paired.tolist())) == sorted(map(tuple, e.tolist()))
    assert (x - paired).norm(dim=1).sum() <= (x - e).norm(dim=1).sum() * (1 + 1e-3)


def test_quantised_distances_cost_next_to_nothing():
    x, e = random(128, 64).clamp(-1, 1), random(128, 64, seed=1)
    exact = torch.cdist(x.double(), e.double())
    rows = torch.arange(128)
    best = exact[rows, torch.from_numpy(assignment(exact))].mean()
    found = exact[rows, torch.from_numpy(assignment(distances(x, e)))].mean()
    assert best <= found <= best * (1 + 1e-5)
    assert best < 0.95 * exact.diagonal().mean()


def test_parts_of_a_state_are_compared_together_and_move_together():
    x = Tree(a=random(8, 3), b=random(8, 2, 2, seed=1))
    e = Tree(a=random(8, 3, seed=2), b=random(8, 2, 2, seed=3))
    whole = Immiscible()(torch.cat([x["a"], x["b"].flatten(1)], 1), torch.cat([e["a"], e["b"].flatten(1)], 1), None)
    paired = Immiscible()(x, e, None)
    assert torch.equal(torch.cat([paired["a"], paired["b"].flatten(1)], 1), whole)
    near = NearestNoise(16)(x, e, draw_of(0, 8))
    assert near["a"].shape == (8, 3) and near["b"].shape == (8, 2, 2)


@pytest.mark.parametrize(("process", "kind"), [(Flow(), FLOW), (VP(), EPS)], ids=["flow matching", "DDPM"])
@pytest.mark.parametrize("pairing", [Immiscible(), NearestNoise(8)], ids=["assigned", "nearest"])
def test_conditions_times_and_targets_stay_with_their_samples(process, kind, pairing):
    x0, ids = random(16, 3), torch.arange(16)
    batch = Batch(x0, Cond({"row": ids}), ids)
    model = Linear(process, kind)
    losses = [
        Denoising(pairing=p)(Roles({"model": model}), batch, Keyed(3), nn.ModuleDict())
        for p in (Independent(), pairing)
    ]
    (x, t, cond), (paired, paired_t, paired_cond) = model.asked
    assert torch.equal(cond["row"], ids) and torch.equal(paired_cond["row"], ids) and torch.equal(t.d, paired_t.d)
    noises = [(v - process.alpha(t) * x0) / process.sigma(t).to(v) for v in (x, paired)]
    torch.testing.assert_close(noises[1], pairing(x0, noises[0], draw_of(3, 16)), rtol=1e-4, atol=1e-4)
    kx, ke, _ = kind.row(process, t)
    expected = (model.net(paired) - kx * x0 - ke * noises[1]).square().mean(1)
    torch.testing.assert_close(losses[1].per_sample, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(losses[0].per_sample, losses[1].per_sample)


def test_flow_targets_of_eight_gaussians_are_almost_a_function_of_the_state():
    ratio = conditional_variance(Immiscible()) / conditional_variance(Independent())
    assert ratio <= 0.2


def conditional_variance(pairing: Pairing, batches: int = 24, size: int = 256, t: float = 0.7) -> float:
    """E Var[eps - x0 | x_t] of eight Gaussians on a circle, from pairs of neighbouring states."""
    found = []
    for k in range(batches):
        at = torch.randint(8, (size,), generator=torch.Generator().manual_seed(k)) * (torch.pi / 4)
        x0 = 2 * torch.stack([at.cos(), at.sin()], 1) + 0.1 * random(size, 2, seed=1000 + k)
        eps = pairing(x0, random(size, 2, seed=2000 + k), None)
        found.append(torch.cat([(1 - t) * x0 + t * eps, eps - x0], 1))
    x, v = torch.cat(found).split(2, 1)
    gap = torch.cdist(x, x).fill_diagonal_(torch.inf)
    return ((v - v[gap.argmin(1)]).square().sum(1).mean() / 2).item()


def test_the_nearest_noise_is_the_nearest_of_k_and_biased():
    x0, eps = random(256, 4), random(256, 4, seed=1)
    draw = draw_of(2, 256)
    more = draw(torch.empty(256, 7, 4), "nearest")
    candidates = torch.cat([eps[:, None], more], 1)
    best = (candidates - x0[:, None]).norm(dim=2).min(1)
    assert torch.equal(NearestNoise(8)(x0, eps, draw), candidates[torch.arange(256), best.indices])
    lean = [(NearestNoise(k)(x0, eps, draw) * x0).sum() / x0.square().sum() for k in (1, 4, 64)]
    assert abs(lean[0]) < 0.1 < lean[1] < lean[2]  # the regression of the kept noise on the data
    spread = [(NearestNoise(k)(x0, eps, draw) - lean * x0).var() for k, lean in zip((1, 4, 64), lean, strict=True)]
    assert spread[0] > spread[1] > spread[2]
    permuted = Immiscible()(x0, eps, draw)
    assert torch.equal(permuted.sort(0).values, eps.sort(0).values)  # where the assignment has none of it


def test_one_candidate_is_plain_training_and_none_is_refused():
    eps = random(4, 3)
    assert NearestNoise(1)(random(4, 3), eps, None) is eps
    with pytest.raises(BadInput, match="at least 1"):
        NearestNoise(0)


def trained(pairing: Pairing, shard: tuple[int, int] = (0, 1)) -> nn.Module:
    objective = Denoising(pairing=pairing, times=UniformTimes(0.1, 0.9))
    trainer = Trainer({"model": Linear()}, Phase(objective, optim=AdamW(0.03)), seed=1)
    source = Shuffled(random(32, 3) + torch.tensor([2.0, 0.0, 0.0]), Cond(), batch=16)
    list(trainer.fit(source, 4, shard=shard))
    return trainer.roles.model.net


def test_two_processes_assign_over_the_global_batch(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    first, second = (torch.load(tmp_path / f"{k}.pt") for k in range(2))
    whole, halves = trained(Immiscible()).state_dict(), trained(Halves()).state_dict()
    assert (whole["weight"] - halves["weight"]).abs().max() > 1e-3
    for name, weight in whole.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight, rtol=1e-5, atol=1e-6)


def rank(k: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=k, world_size=2)
    torch.save(trained(Immiscible(), (k, 2)).state_dict(), folder / f"{k}.pt")
    dist.destroy_process_group()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # which the first optimiser step would import, in both processes anew
    child = os.fork()
    if not child:
        rank(1, folder)
        os._exit(0)
    rank(0, folder)
    sys.exit(os.waitpid(child, 0)[1] != 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
