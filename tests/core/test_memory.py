"""Memory follows rows: a row that was never stored is a miss, values are replaced and never written."""

from __future__ import annotations

import torch

from suffuse.core.memory import Memory, Scope, rows_of


def scope(memory, path, samples, step=0):
    return Scope(memory, "me", rows_of(path, samples), step)


def test_rows_are_found_in_any_order_and_split():
    memory = Memory()
    scope(memory, "cond", [0, 1, 2])["v"] = torch.tensor([0.0, 1.0, 2.0])
    scope(memory, "null", [0, 1])["v"] = torch.tensor([10.0, 11.0])
    assert scope(memory, "cond", [2, 0])["v"].tolist() == [2, 0]
    both = Scope(memory, "me", rows_of("null", [1]) + rows_of("cond", [1]), 0)
    assert both["v"].tolist() == [11, 1]
    assert scope(memory, "null", [1, 2]).get("v") is None and scope(memory, "null", [1, 2]).held("v") == [True, False]


def test_storing_some_rows_keeps_the_others():
    memory = Memory()
    scope(memory, "", [0, 1, 2])["v"] = (torch.zeros(3, 2), {"k": torch.zeros(3)})
    scope(memory, "", [1], step=4)["v"] = (torch.ones(1, 2), {"k": torch.ones(1)})
    value = scope(memory, "", [0, 1, 2])["v"]
    assert value[0].sum(1).tolist() == [0, 2, 0] and value[1]["k"].tolist() == [0, 1, 0]
    assert scope(memory, "", [1], step=5).age("v") == 1 and scope(memory, "", [0, 1], step=5).age("v") == 5
    assert scope(memory, "", [7]).age("v") is None


def test_snapshots_do_not_change():
    memory = Memory()
    scope(memory, "", [0])["v"] = torch.zeros(1)
    before = memory.entries
    scope(memory, "", [0])["v"] = torch.ones(1)
    assert Scope(Memory(before), "me", rows_of("", [0]), 0)["v"].item() == 0


def test_split_and_join_by_sample():
    memory = Memory()
    scope(memory, "cond", [3, 4])["v"] = torch.tensor([3.0, 4.0])
    left, right = memory.of_samples([3]), memory.of_samples([4])
    assert scope(left, "cond", [4]).get("v") is None
    assert scope(Memory.cat([right, left]), "cond", [3, 4])["v"].tolist() == [3, 4]


def test_shared_ignores_paths_and_gradients_stop():
    memory = Memory()
    scope(memory, "cond", [0]).shared["v"] = torch.ones(1, requires_grad=True)
    value = scope(memory, "null", [0]).shared["v"]
    assert value.item() == 1 and not value.requires_grad
