"""What a name stands for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import suffuse
from suffuse.core.errors import BadInput, Damaged
from suffuse.loading import sources
from suffuse.testing import pipelines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    pipelines.pixels().save_pretrained(path)
    return path


def test_bundled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BUNDLED", folder.parent)
    assert sources.bundled() == ["tiny"]
    assert suffuse.load("tiny").name == "tiny"
    with pytest.raises(BadInput, match="'tinny'.*did you mean tiny"):
        suffuse.load("tinny")


def test_from_pretrained_is_load() -> None:
    assert suffuse.from_pretrained is suffuse.load


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"device": "cuda:77"}, "device='cuda:77': cannot be used here"),
        ({"device": "tpux"}, "device='tpux': cannot be used here"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16': must be one of"),
        ({"dtype": torch.int8}, "dtype=torch.int8: must be one of"),
        ({"dtype": torch.float32, "torch_dtype": torch.float32}, "two names of one argument"),
    ],
)
def test_where_and_in_what_type(how: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        suffuse.load("digits", **how)


def test_number_types(folder: Path) -> None:
    assert suffuse.from_pretrained("digits", torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert suffuse.load("digits").to(torch.bfloat16).dtype == torch.bfloat16


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with the repository owner/tiny in it, and no connection."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--owner--tiny" / "snapshots" / "0123"
    shutil.copytree(folder, snapshot)
    (tmp_path / "models--owner--tiny" / "refs").mkdir()
    (tmp_path / "models--owner--tiny" / "refs" / "main").write_text("0123")
    return snapshot


def test_hub_from_the_cache(hub: Path) -> None:
    assert suffuse.load("owner/tiny").name == "owner/tiny"


def test_hub_out_of_reach(hub: Path) -> None:
    with pytest.raises(BadInput, match="'owner/other'.*cannot be reached"):
        suffuse.load("owner/other")


def test_hub_with_a_damaged_index(hub: Path) -> None:
    (hub / "model_index.json").write_text("{")
    with pytest.raises(Damaged, match="does not parse"):
        suffuse.load("owner/tiny")


def test_pickled_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")  # the suffix does not matter
    with pytest.raises(BadInput, match="pickled weights can run code"):
        suffuse.load(tmp_path / "model.safetensors")
    (tmp_path / "notes.safetensors").write_text("Dear diary")
    with pytest.raises(BadInput, match="is not a safetensors file"):
        suffuse.load(tmp_path / "notes.safetensors")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora_unet_mid_block_attentions_0.lora_down.weight", "holds an adapter"),
        ("model.diffusion_model.joint_blocks.0.mlp.weight", "SD3 or Flux"),
        ("down_blocks.0.resnets.0.conv1.weight", "holds one network"),
        ("model.diffusion_model.input_blocks.0.0.weight", "has no text encoder"),
        ("something.else", "no known model.*something.else"),
    ],
)
def test_files_of_other_things(key: str, message: str, tmp_path: Path) -> None:
    save_file({key: torch.zeros(1)}, tmp_path / "file.safetensors")
    with pytest.raises(BadInput, match=message):
        suffuse.load(tmp_path / "file.safetensors")


def test_cut_off_file(tmp_path: Path) -> None:
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(100)}, tmp_path / "file")
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-4])
    with pytest.raises(Damaged, match="file is damaged"):
        suffuse.load(tmp_path / "file")


def test_index_of_a_folder_is_kept(folder: Path, tmp_path: Path) -> None:
    """Entries that are not parts survive loading and saving."""
    copy = shutil.copytree(folder, tmp_path / "named")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "id2label": {"0": "zero"}}))
    saved = suffuse.load(copy).save_pretrained(tmp_path / "saved")
    assert json.loads((saved / "model_index.json").read_text())["id2label"] == {"0": "zero"}
