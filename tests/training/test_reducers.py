from __future__ import annotations

import pytest
import torch
from torch import nn

from suffuse.core.errors import BadInput
from suffuse.training import GroupMean, Loss, Mean


def gradient(reducer, t, groups=None):
    w = torch.ones(len(t), requires_grad=True)
    reducer.backward(Loss(w * torch.arange(1.0, len(t) + 1), t=t), [w], nn.ModuleDict())
    return w.grad


def test_mean():
    assert torch.equal(gradient(Mean(), torch.rand(4)), torch.tensor([1.0, 2, 3, 4]) / 4)


def test_group_mean_weighs_groups_alike_and_leaves_out_empty_ones():
    t = torch.tensor([0.1, 0.2, 0.1, 0.9])
    assert torch.allclose(gradient(GroupMean((0.25, 0.5)), t), torch.tensor([1 / 6, 2 / 6, 3 / 6, 4 / 2]))


def test_group_mean_of_one_group_is_the_mean():
    t = torch.rand(5, dtype=torch.float64)
    assert torch.allclose(gradient(GroupMean(()), t), gradient(Mean(), t))


def test_group_mean_needs_times():
    w = torch.ones(3, requires_grad=True)
    for t in (None, torch.rand(3, 2)):
        with pytest.raises(BadInput, match="GroupMean needs one time a sample"):
            GroupMean().backward(Loss(w, t=t), [w], nn.ModuleDict())
