"""Two processes train one model; without torch.distributed each trains its own share."""

from __future__ import annotations

import subprocess
import sys

import torch

from suffuse.training.ranks import Ranks


def test_two_processes_equal_one(toy, tmp_path):
    command = [sys.executable, toy.__file__, "ranks", str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    (losses, weights), (other_losses, other), (cut_losses, cut), _ = (
        torch.load(tmp_path / f"{name}.pt") for name in ("whole.0", "whole.1", "cut.0", "cut.1")
    )
    alone = toy.plain()
    expected = [log.losses for log in alone.fit(toy.source(), 10)]
    assert losses == other_losses and losses[5:] == cut_losses
    for name, weight in alone.roles.model.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-5, atol=1e-6)
        assert torch.equal(weights[name], other[name]) and torch.equal(weights[name], cut[name])
    for mine, theirs in zip(expected, losses, strict=True):
        for term, value in mine.items():
            torch.testing.assert_close(theirs[term], value, rtol=1e-5, atol=1e-6)


def test_shards_are_disjoint_and_complete(toy):
    batch = toy.source()(0)
    parts = [Ranks((k, 4)).own(batch) for k in range(4)]
    assert torch.equal(torch.cat([part.ids for part in parts]), batch.ids)
    assert torch.equal(torch.cat([part.data for part in parts]), batch.data)
    assert torch.equal(torch.cat([part.cond["row"] for part in parts]), batch.ids)


def test_without_a_group_each_process_is_on_its_own(toy, tmp_path):
    ends = []
    for k in range(2):
        trainer = toy.plain()
        list(trainer.fit(toy.source(), 3, shard=(k, 2), folder=tmp_path / str(k)))
        ends.append(trainer.roles.model[0].weight)
        assert (tmp_path / str(k) / "step-000003").is_dir()
    assert not torch.equal(*ends)
