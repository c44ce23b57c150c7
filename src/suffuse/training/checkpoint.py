"""Training states on disk: safetensors and JSON, complete or absent, never half.

A checkpoint is the folder `step-000123`: one safetensors file for each group of tensors and `state.json` with the step,
plain numbers and the SHA-256 of every file. It is written under another name, flushed, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core.errors import Damaged
from ..core.files import read_json, sha256, write_json

STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A training state.

    Args:
        step: steps done.
        tensors: {group: {name: tensor}}, a file for each group.
        numbers: whatever JSON can hold exactly.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: Mapping[str, Any]


def paths(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; an absent folder has none."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]))


def write(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{checkpoint.step:06d}"
    draft = folder / f".{final.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _fill(draft, checkpoint)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _remove(final)
    draft.rename(final)
    _flush(folder)
    for old in paths(folder)[:-keep]:
        _remove(old)
    return final


def _fill(draft: Path, checkpoint: Checkpoint) -> None:
    draft.mkdir()
    digests = {}
    for group, tensors in checkpoint.tensors.items():
        if tensors:
            file = draft / f"{group}.safetensors"
            save_file({name: _plain(tensor) for name, tensor in tensors.items()}, file)
            _flush(file)
            digests[file.name] = sha256(file)
    state = {"step": checkpoint.step, "numbers": checkpoint.numbers, "files": digests}
    write_json(draft / STATE, {"state": state, "sha256": _digest(state)})
    _flush(draft)


def read(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a folder, None where there is none.

    Raises:
        Damaged: a file is missing or altered; the message names it and the newest checkpoint that is whole.
    """
    found = paths(folder)
    if not found:
        return None
    *older, newest = found
    fault = verify(newest)
    if fault:
        whole = next((p for p in reversed(older) if not verify(p)), None)
        remedy = f"{whole} is whole: delete {newest.name} to go on from it" if whole else "none is whole: start anew"
        raise Damaged(f"checkpoint {newest} is damaged, {fault}; {remedy}")
    state = read_json(newest / STATE)["state"]
    tensors = {file.removesuffix(".safetensors"): load_file(newest / file) for file in state["files"]}
    return Checkpoint(state["step"], tensors, state["numbers"])


def verify(path: Path) -> str:
    """What is wrong with a checkpoint, the empty string where nothing is."""
    try:
        stored = read_json(path / STATE)
        state, digest = stored["state"], stored["sha256"]
        files = dict(state["files"])
    except Damaged:
        return f"{STATE} is missing or is not JSON"
    except (ValueError, KeyError, TypeError):
        return f"{STATE} is not a training state"
    if digest != _digest(state):
        return f"the hash of {STATE} differs"
    for name, digest in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256(path / name) != digest:
            return f"the hash of {name} differs"
    return ""


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for draft in folder.glob(".step-*"):
        shutil.rmtree(draft, ignore_errors=True)


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    # safetensors refuses tensors that share memory
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _digest(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _flush(path: Path) -> None:
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Rename first, so that a kill in between leaves no half checkpoint under a valid name."""
    if path.exists():
        gone = path.with_name(f".{path.name}.old")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)
