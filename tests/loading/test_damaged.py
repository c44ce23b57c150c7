"""What is missing or damaged is named; what could run code is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import suffuse
from suffuse.core.errors import BadInput, Damaged
from suffuse.testing import pipelines


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "model"
    pipelines.stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_weight(path: Path) -> None:
    weights = load_file(path)
    weights.pop("conv_in.weight")
    save_file(weights, path, {"format": "pt"})


def reshape_a_weight(path: Path) -> None:
    weights = load_file(path)
    weights["conv_in.weight"] = torch.zeros(3, 3)
    save_file(weights, path, {"format": "pt"})


UNET = "unet/diffusion_pytorch_model.safetensors"

DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no unet": (lambda f: shutil.rmtree(f / "unet"), "unet is missing"),
    "no weights": (lambda f: (f / UNET).unlink(), "diffusion_pytorch_model.safetensors is missing"),
    "no text weights": (lambda f: (f / "text_encoder/model.safetensors").unlink(), "model.safetensors is missing"),
    "no config": (lambda f: (f / "vae/config.json").unlink(), "vae/config.json is missing"),
    "no tokenizer": (
        lambda f: (f / "tokenizer/tokenizer.json").unlink(),
        "tokenizer/(vocab|tokenizer).json is missing",
    ),
    "no scheduler": (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "scheduler_config.json is missing"),
    "cut off": (lambda f: cut(f / UNET), "diffusion_pytorch_model.safetensors is damaged"),
    "empty": (lambda f: (f / UNET).write_bytes(b""), "diffusion_pytorch_model.safetensors is damaged"),
    "config cut off": (lambda f: cut(f / "unet/config.json"), "unet/config.json is not valid JSON"),
    "index cut off": (lambda f: cut(f / "model_index.json"), "model_index.json is not valid JSON"),
    "tokenizer cut off": (lambda f: cut(f / "tokenizer/tokenizer.json"), "tokenizer.json is not valid JSON"),
    "no class": (lambda f: edit(f / "model_index.json", _class_name=None), "names no pipeline class"),
    "lost weight": (lambda f: lose_a_weight(f / UNET), "unet: 1 weights are missing.*conv_in.weight"),
    "misshapen weight": (lambda f: reshape_a_weight(f / UNET), "unet: .*(conv_in.weight|size mismatch|shape)"),
    "left out of the index": (lambda f: edit(f / "model_index.json", unet=[None, None]), "has no 'unet'"),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_damage_is_named(name: str, folder: Path) -> None:
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(Damaged, match=message) as error:
        suffuse.load(folder)
    assert "\n" not in str(error.value)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "remote code": (lambda f: edit(f / "model_index.json", unet=["my_code", "MyUNet"]), "my_code.MyUNet is unknown"),
    "unknown class": (lambda f: edit(f / "model_index.json", unet=["diffusers", "UNet3D"]), "UNet3D is unknown"),
    "unknown pipeline": (lambda f: edit(f / "model_index.json", _class_name="StableDifusionPipeline"), "did you mean"),
    "pickled": (lambda f: (f / UNET).rename(f / "unet/diffusion_pytorch_model.bin"), "pickled weights can run code"),
    "one network": (lambda f: (f / "model_index.json").unlink(), "has no model_index.json"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused(name: str, folder: Path) -> None:
    damage, message = REFUSED[name]
    damage(folder)
    with pytest.raises(BadInput, match=message) as error:
        suffuse.load(folder)
    assert "\n" not in str(error.value)


def test_a_part_instead_of_the_whole(good: Path) -> None:
    with pytest.raises(BadInput, match="one network, not a whole model"):
        suffuse.load(good / "unet")


def test_unused_parts_are_not_read(folder: Path) -> None:
    edit(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    suffuse.load(folder)


def half(folder: Path) -> None:
    """Write the networks' weights in float16 as variant "fp16", and no others."""
    for path in folder.glob("*/*.safetensors"):
        save_file(
            {k: v.half() for k, v in load_file(path).items()}, path.with_suffix(".fp16.safetensors"), {"format": "pt"}
        )
        path.unlink()


def test_half_precision_is_read_as_float32(folder: Path) -> None:
    half(folder)
    for variant in ("fp16", None):  # the only variant there is needs not be named
        model = suffuse.load(folder, variant=variant)
        assert {p.dtype for p in model.net.parameters()} == {torch.float32}
        assert torch.isfinite(model.generate("photo", steps=1).latents).all()
    bfloat = suffuse.load(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in bfloat.net.parameters()} == {torch.bfloat16}
    assert bfloat.generate("photo", steps=1).latents.dtype == torch.float32


def test_wrong_variant(folder: Path) -> None:
    with pytest.raises(BadInput, match="variant='fp8'.*'None'"):
        suffuse.load(folder, variant="fp8")
    with pytest.raises(BadInput, match="dtype=torch.float16.*bfloat16"):
        suffuse.load(folder, dtype=torch.float16)


def test_sharded(folder: Path) -> None:
    whole = load_file(folder / UNET)
    names = ["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors"]
    keys = sorted(whole)
    halves = [keys[: len(keys) // 2], keys[len(keys) // 2 :]]
    for name, part in zip(names, halves, strict=True):
        save_file({k: whole[k] for k in part}, folder / "unet" / name, {"format": "pt"})
    table = {k: name for name, part in zip(names, halves, strict=True) for k in part}
    index = {"metadata": {"total_size": 1}, "weight_map": table}
    (folder / f"{UNET}.index.json").write_text(json.dumps(index))
    (folder / UNET).unlink()
    state = suffuse.load(folder).net.state_dict()
    assert all(torch.equal(state[k], v) for k, v in whole.items())
    cut(folder / "unet" / names[1])
    with pytest.raises(Damaged, match="00002-of-00002.safetensors is damaged"):
        suffuse.load(folder)


def test_saving_replaces_a_model_and_nothing_else(good: Path, tmp_path: Path) -> None:
    model = suffuse.load(good)
    target = tmp_path / "there" / "model"
    assert model.save_pretrained(target) == target
    (target / "stale").write_text("of the model before")
    model.save_pretrained(target)
    assert not (target / "stale").exists()
    assert [p.name for p in target.parent.iterdir()] == ["model"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("mine")
    with pytest.raises(BadInput, match="is not a model"):
        model.save_pretrained(other)
    assert (other / "mine").read_text() == "mine"


def test_interrupted_saving_leaves_the_old_model(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = suffuse.load(good)
    model.save_pretrained(tmp_path / "model")
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model.codec.vae), "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path / "model")
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before
