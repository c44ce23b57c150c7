"""Fitted plug-ins as files."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from suffuse import load_method, save_method
from suffuse.core import registry
from suffuse.core.errors import BadInput, Damaged
from suffuse.core.hook import Hook
from suffuse.core.plugin import Setting
from suffuse.core.registry import method
from suffuse.guidance import LinearAG


class Net(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.config = {"width": width}
        self.line = nn.Linear(width, width)


@dataclass(frozen=True, eq=False)
class FittedHook(Hook):
    """A hook with a network."""

    net: Net
    strength: float = 1.0
    made_for: Setting = Setting()

    def __call__(self, step, x, at):
        return step(x, at)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    method()(FittedHook)
    yield
    del registry._methods["FittedHook"]


def test_plain_data_comes_back(tmp_path):
    fitted = LinearAG(3.0, ((), (0.5, -1.25, 0.1)), Setting("abc", "VP()", times=(1.0, 0.5, 0.0), shape=(4, 8, 8)))
    assert load_method(save_method(fitted, tmp_path / "linear.safetensors")) == fitted


def test_networks_come_back(tmp_path):
    fitted = FittedHook(Net(3), 0.5, Setting(model="abc"))
    back = load_method(save_method(fitted, tmp_path / "hook.safetensors"))
    assert (back.strength, back.made_for) == (0.5, Setting(model="abc"))
    assert torch.equal(back.net.line.weight, fitted.net.line.weight)
    assert not back.net.training and not back.net.line.weight.requires_grad


def test_bad_files_are_named(tmp_path):
    with pytest.raises(BadInput, match="no file"):
        load_method(tmp_path / "absent.safetensors")
    path = save_method(LinearAG(3.0, (), Setting()), tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(Damaged, match="fit it again"):
        load_method(path)
