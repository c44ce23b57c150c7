from __future__ import annotations

import hashlib
import os
import stat

import pytest

from suffuse.core.errors import BadInput, Damaged
from suffuse.core.files import atomic_write, read_json, sha256, write_json


def test_writes_bytes_and_makes_the_folder(tmp_path):
    path = atomic_write(tmp_path / "new" / "a.bin", b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_writes_through_a_function(tmp_path):
    assert atomic_write(tmp_path / "a.txt", lambda file: file.write(b"hello")).read_bytes() == b"hello"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError, ValueError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    path = atomic_write(tmp_path / "a.txt", b"old")

    def write(file):
        file.write(b"half of the n")
        raise interruption

    with pytest.raises(interruption):
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_mode_and_an_old_one_keeps_its_own(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    path = atomic_write(tmp_path / "a", b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    os.chmod(path, 0o640)
    assert stat.S_IMODE(atomic_write(path, b"x").stat().st_mode) == 0o640


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(BadInput, match="is a folder"):
        atomic_write(tmp_path, b"")


def test_json_round_trip(tmp_path):
    value = {"größe": [1, 2.5, None, True], "nested": {"a": "b"}}
    path = write_json(tmp_path / "a.json", value)
    assert read_json(path) == value
    assert "größe" in path.read_text("utf-8")


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, object()])
def test_json_refuses_what_json_cannot_hold(tmp_path, value):
    with pytest.raises(BadInput):
        write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_json_are_named(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(Damaged, match="a.json is missing"):
        read_json(path)
    path.write_text('{"a": ')
    with pytest.raises(Damaged, match="a.json is not valid JSON"):
        read_json(path)


def test_sha256(tmp_path):
    path = atomic_write(tmp_path / "a", b"abc" * 1000)
    assert sha256(path) == hashlib.sha256(b"abc" * 1000).hexdigest()
    with pytest.raises(Damaged, match="missing"):
        sha256(tmp_path / "b")
