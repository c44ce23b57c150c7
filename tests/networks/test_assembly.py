"""Networks assembled from trained blocks, and their distillation."""

from __future__ import annotations

import pytest
import torch

from suffuse.backbones import family_of
from suffuse.core.denoiser import Network
from suffuse.core.errors import BadInput
from suffuse.core.noise import Keyed
from suffuse.core.training import Batch, Phase, Roles
from suffuse.networks import assembled
from suffuse.networks.assembly import common
from suffuse.testing.fixtures import conditions, fixture, states
from suffuse.training import BlockDistillation, Trainer

LIGHT = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}


def light(**blocks):
    teacher = fixture("unet")
    net = assembled(teacher.net, **LIGHT, **blocks)
    return Network(net.eval(), family_of(net), teacher.process, teacher.kind), teacher


def test_what_fits_is_the_teachers():
    student, teacher = light()
    theirs = teacher.net.state_dict()
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in teacher.parameters())
    assert all(torch.equal(v, theirs[name]) for name, v in student.net.state_dict().items())
    whole = assembled(teacher.net)
    assert all(torch.equal(v, theirs[name]) for name, v in whole.state_dict().items())
    assert "mid_block" in common(student.net, teacher.net)


def test_blocks_of_elsewhere_and_their_shapes():
    teacher = fixture("unet").net
    other = teacher.mid_block.resnets[1]
    net, _ = light(blocks={"mid_block.resnets.0": other})
    assert torch.equal(net.net.mid_block.resnets[0].conv1.weight, other.conv1.weight)
    with pytest.raises(BadInput, match=r"conv1\.bias is \(8,\)"):
        light(blocks={"down_blocks.0.resnets.0": other})
    with pytest.raises(BadInput, match="no part 'mid'"):
        light(blocks={"mid": other})


def test_distillation_is_zero_at_the_teacher_and_falls():
    student, teacher = light()
    batch = Batch(states("unet", 4), conditions("unet", 4), torch.arange(4))
    objective = BlockDistillation(("mid_block", "up_blocks.1"))
    same = objective(Roles({"student": teacher, "teacher": teacher}), batch, Keyed(0), torch.nn.ModuleDict())
    assert same.per_sample.abs().max() == 0
    phase = Phase(objective, trains="student")
    trainer = Trainer({"student": student, "teacher": teacher}, phase)
    before = {name: v.clone() for name, v in teacher.state_dict().items()}
    losses = [next(iter(log.losses.values())) for log in trainer.fit(lambda step: batch, 30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert all(torch.equal(v, before[name]) for name, v in teacher.state_dict().items())
