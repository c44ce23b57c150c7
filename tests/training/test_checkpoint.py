"""Checkpoints are whole or absent, and one that was altered is named."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suffuse.core.errors import Damaged
from suffuse.training import checkpoint
from suffuse.training.checkpoint import Checkpoint


def state(step: int) -> Checkpoint:
    tensors = {
        "role.model": {"w": torch.arange(12.0).view(3, 4) + step, "n": torch.tensor(step)},
        "optimiser.model": {"w/exp_avg": torch.full((3, 4), 0.1, dtype=torch.float64), "empty": torch.zeros(0)},
        "parts.model": {},
    }
    return Checkpoint(step, tensors, {"seconds": 0.1 + 0.2, "seed": 2**60 + 1, "text": "ä"})


def write(folder, *steps: int) -> None:
    for step in steps:
        checkpoint.write(folder, state(step))


def test_round_trip_is_exact(tmp_path):
    assert checkpoint.read(tmp_path) is None and checkpoint.read(tmp_path / "absent") is None
    path = checkpoint.write(tmp_path, state(123))
    assert path.name == "step-000123"
    found = checkpoint.read(tmp_path)
    assert found.step == 123 and found.numbers == state(123).numbers
    for group, tensors in state(123).tensors.items():
        for name, tensor in tensors.items():
            stored = found.tensors[group][name]
            assert stored.dtype == tensor.dtype and torch.equal(stored, tensor)


def test_strided_and_shared_tensors(tmp_path):
    base = torch.arange(24.0).view(2, 3, 4)
    tensors = {"view": base[0], "other": base[1], "turned": base.permute(2, 0, 1)}
    checkpoint.write(tmp_path, Checkpoint(1, {"g": tensors}, {}))
    for name, tensor in checkpoint.read(tmp_path).tensors["g"].items():
        assert torch.equal(tensor, tensors[name])


def test_the_newest_two_stay(tmp_path):
    write(tmp_path, 1, 2, 999_999, 1_000_000)
    assert [p.name for p in checkpoint.paths(tmp_path)] == ["step-999999", "step-1000000"]
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoint.read(tmp_path).step == 1_000_000


def test_writing_a_step_again_replaces_it(tmp_path):
    write(tmp_path, 5)
    checkpoint.write(tmp_path, Checkpoint(5, {}, {"again": True}))
    assert checkpoint.read(tmp_path).numbers == {"again": True}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.integers(0, 2), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path, file, place, bit):
    shutil.rmtree(tmp_path)
    write(tmp_path, 1, 2)
    path = sorted((tmp_path / "step-000002").iterdir())[file]
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        meaning = json.loads(content) if path.suffix == ".json" else None
    except ValueError:
        meaning = None
    if meaning is not None and checkpoint.verify(tmp_path / "step-000002") == "":
        write(tmp_path / "fresh", 2)  # a flip in white space changes no meaning
        assert meaning == json.loads((tmp_path / "fresh" / "step-000002" / "state.json").read_bytes())
        return
    with pytest.raises(
        Damaged, match=rf"step-000002 is damaged.*{path.name}.*step-000001 is whole: delete step-000002"
    ):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize("name", ["state.json", "role.model.safetensors", "optimiser.model.safetensors"])
def test_missing_and_cut_files_are_named(tmp_path, name):
    write(tmp_path, 1, 2)
    path = tmp_path / "step-000002" / name
    path.write_bytes(path.read_bytes()[:-1] if name != "state.json" else b'{"sha')
    with pytest.raises(Damaged, match=f"{name}.*step-000001 is whole"):
        checkpoint.read(tmp_path)
    path.unlink()
    with pytest.raises(Damaged, match=f"{name} is missing"):
        checkpoint.read(tmp_path)
    shutil.rmtree(tmp_path / "step-000001")
    with pytest.raises(Damaged, match="none is whole"):
        checkpoint.read(tmp_path)


def test_a_state_of_another_kind_is_damaged(tmp_path):
    write(tmp_path, 1)
    for text in ("[]", "{}", '{"state": {"files": 3}, "sha256": ""}', "null"):
        (tmp_path / "step-000001" / "state.json").write_text(text)
        with pytest.raises(Damaged, match="state.json"):
            checkpoint.read(tmp_path)


def test_a_failed_write_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    write(tmp_path, 1, 2)

    def full_disk(tensors, file):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.write(tmp_path, state(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001", "step-000002"]
    assert checkpoint.read(tmp_path).step == 2


def test_sweep_removes_what_a_kill_left(tmp_path):
    write(tmp_path, 1)
    (tmp_path / ".step-000002.draft").mkdir()
    (tmp_path / ".step-000002.draft" / "role.model.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert checkpoint.read(tmp_path).step == 1
    checkpoint.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "step-000001"]
