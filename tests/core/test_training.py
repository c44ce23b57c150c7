"""The contracts of training by themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from suffuse.core.cond import Cond
from suffuse.core.training import Batch, Loss, Mean, Objective, Phase, Roles
from suffuse.core.value import Tree


def test_roles_are_a_mapping_and_a_namespace():
    net = nn.Identity()
    roles = Roles({"student": net, "teacher": nn.Identity()})
    assert roles.student is roles["student"] is net and list(roles) == ["student", "teacher"] and len(roles) == 2
    assert "critic" not in roles and roles.get("critic") is None and not hasattr(roles, "critic")
    with pytest.raises(AttributeError, match="no role 'studnet'; did you mean student"):
        _ = roles.studnet


def test_rows_of_a_batch():
    data = {"image": Tree(x=torch.arange(4), y=torch.arange(8).view(4, 2)), "mask": torch.arange(4)}
    batch = Batch(data, Cond({"y": torch.arange(4)}), torch.tensor([7, 8, 9, 10]))
    for rows in (slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False])):
        part = batch[rows]
        assert len(part) == 2 and part.ids.tolist() == [8, 9] and part.cond["y"].tolist() == [1, 2]
        assert part.data["image"]["y"].tolist() == [[2, 3], [4, 5]] and part.data["mask"].tolist() == [1, 2]
    assert len(batch) == 4


def test_total_is_the_mean():
    assert Loss(torch.tensor([1.0, 3.0])).total == 2


def test_a_phase_is_a_value():
    class Nothing(Objective):
        def __call__(self, roles, batch, noise, parts):
            raise NotImplementedError

    objective = Nothing()
    assert Phase(objective) == Phase(objective, "model", None, 1, 1, Mean(), 1.0)
    assert Phase(objective).names == ("model",) and Phase(objective, ("a", "b")).names == ("a", "b")
    assert len(objective.parts(Roles({}))) == 0 and len(Mean().parts()) == 0
