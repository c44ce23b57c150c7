"""Entries beside prompts: one for all, or one for each prompt, and for one branch alone."""

from __future__ import annotations

import pytest
import torch

from suffuse.conditioning import Given
from suffuse.core.conditioner import Conditioner
from suffuse.core.errors import BadInput


def test_one_for_all_and_one_for_each():
    entry = torch.arange(6.0).reshape(2, 3)
    given = Given(Conditioner([]), {"control": entry, "scene": entry[:1]}, {"stage": {"control": entry[1:]}})
    cond = given.encode([None] * 4)
    assert torch.equal(cond["control"], entry.repeat_interleave(2, 0)) and torch.equal(cond["scene"], entry[[0] * 4])
    stage = cond.branch("stage")
    assert torch.equal(stage["control"], entry[[1] * 4]) and torch.equal(stage["scene"], cond["scene"])
    assert torch.equal(cond.branch("null")["control"], cond["control"])


def test_numbers_that_do_not_fit():
    with pytest.raises(BadInput, match="control: 2 for 3"):
        Given(Conditioner([]), {"control": torch.zeros(2, 1)}).encode([None] * 3)
