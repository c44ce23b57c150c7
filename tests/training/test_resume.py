"""A run that was stopped and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from suffuse.core.errors import BadInput, Refused
from suffuse.training import Phase, checkpoint


@pytest.fixture(autouse=True)
def _interruptible():
    """Ctrl-C as in a terminal, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def same_state(a: Path, b: Path) -> None:
    one, two = checkpoint.read(a), checkpoint.read(b)
    assert one and two and one.step == two.step
    assert one.tensors.keys() == two.tensors.keys()
    for group, tensors in one.tensors.items():
        assert tensors.keys() == two.tensors[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, two.tensors[group][name]), f"{group}: {name}"
    assert {**one.numbers, "seconds": 0} == {**two.numbers, "seconds": 0}


@pytest.mark.parametrize("seed", [0])
def test_killed_at_random_moments(toy, tmp_path, seed):
    command = [sys.executable, toy.__file__, "kill", str(tmp_path), str(seed), "8"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    result = json.loads(out.stdout)
    assert result["exit"] == 0 and result["kills"] >= 3
    same_state(tmp_path / "whole", tmp_path / "cut")
    whole = {json.loads(line)["step"]: line for line in (tmp_path / "whole.log").read_text().splitlines()}
    cut = (tmp_path / "cut.log").read_text().splitlines()
    assert all(whole[json.loads(line)["step"]] == line for line in cut)  # losses, rates and samples, repeated or not
    steps = [0, *(json.loads(line)["step"] for line in cut)]
    # A kill between the checkpoint of a step and its line in the log loses the line, and never more than that.
    lost = [b for a, b in pairwise(steps) if b > a + 1]
    assert all(b <= a + 2 for a, b in pairwise(steps)) and len(lost) <= result["kills"] and steps[-1] == toy.STEPS
    assert len(cut) + len(lost) > toy.STEPS
    groups = set(checkpoint.read(tmp_path / "cut").tensors)
    assert groups == {
        *("role.model", "role.critic", "follower.ema", "follower.opponent"),
        *("parts.critic", "parts.student", "optimiser.critic", "optimiser.student"),
    }
    assert not list((tmp_path / "cut").glob(".step*"))


def test_ctrl_c_finishes_the_step_and_saves(toy, tmp_path):
    trainer, whole = toy.full(), toy.full()
    data = toy.source()

    def source(step):
        if step == 7:
            signal.raise_signal(signal.SIGINT)
        return data(step)

    seen = []
    with pytest.raises(KeyboardInterrupt):
        for log in trainer.fit(source, 20, folder=tmp_path / "cut"):
            seen.append(log.step)
    assert seen == list(range(1, 9)) and checkpoint.read(tmp_path / "cut").step == 8
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    list(toy.full().fit(data, 20, folder=tmp_path / "cut"))
    list(whole.fit(data, 20, folder=tmp_path / "whole"))
    same_state(tmp_path / "whole", tmp_path / "cut")


def test_second_ctrl_c_stops_at_once_and_saves_nothing(toy, tmp_path):
    def source(step):
        if step == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return toy.source()(step)

    with pytest.raises(KeyboardInterrupt):
        list(toy.full().fit(source, 20, folder=tmp_path, save_every=3))
    assert checkpoint.read(tmp_path).step == 3


def test_leaving_the_loop_saves(toy, tmp_path):
    for log in toy.full().fit(toy.source(), 20, folder=tmp_path):
        if log.step == 6:
            break
    assert checkpoint.read(tmp_path).step == 6


def test_fit_twice_goes_on(toy):
    one, two = toy.full(), toy.full()
    logs = [log.losses for log in one.fit(toy.source(), 12)]
    # rates depend on the length of the run, so both calls name the same one
    first = two.fit(toy.source(), 12)
    split = [next(first).losses for _ in range(5)]
    first.close()
    split += [log.losses for log in two.fit(toy.source(), 12)]
    assert logs == split and two.step == 12 and list(two.fit(toy.source(), 12)) == []


def test_the_callers_random_state_is_left_alone(toy):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    for _ in toy.full().fit(toy.source(), 3):
        pass
    assert torch.equal(before, torch.get_rng_state())


def test_another_configuration_is_refused(toy, tmp_path):
    list(toy.full().fit(toy.source(), 2, folder=tmp_path))
    fewer = toy.plain()
    fewer.seed = 11
    with pytest.raises(BadInput, match="critic|teacher|model"):
        list(fewer.fit(toy.source(), 4, folder=tmp_path))
    other = toy.full()
    other.seed = 12
    with pytest.raises(BadInput, match="seed=12.*seed=11"):
        other.restore(tmp_path)
    changed = toy.full()
    with torch.no_grad():
        changed.roles.teacher[0].weight += 1
    with pytest.raises(Refused, match="'teacher' is not the one"):
        changed.restore(tmp_path)
    with pytest.raises(BadInput, match="is a file"):
        toy.full().fit(toy.source(), 4, folder=next(tmp_path.glob("*/state.json")))


def test_other_shapes_are_refused(toy, tmp_path):
    list(toy.flow_only().fit(toy.source(), 2, folder=tmp_path))
    other = toy.Trainer({"model": toy.nn.Sequential(*toy.network(0)[:4], toy.nn.Linear(16, 4))}, Phase(toy.Flow()))
    with pytest.raises(BadInput, match="4.weight"):
        other.restore(tmp_path)
