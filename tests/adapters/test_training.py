"""Adapters through the Trainer: only their numbers move, and a run that was resumed ends with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from suffuse.adapters import LoHa, LoKr, LoRA, bake, load_adapters, save_adapters
from suffuse.adapters.delta import Delta
from suffuse.core.denoiser import Denoiser
from suffuse.core.value import Coef
from suffuse.testing.fixtures import conditions, fixture, states
from suffuse.training import AdamW, Denoising, Phase, Shuffled, Trainer


def bits(module: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


@torch.no_grad()
def error(denoiser: Denoiser) -> float:
    """Of the predicted noise, on fixed states."""
    x0, eps = states("unet", 8), states("unet", 16)[8:]
    t = torch.linspace(0.05, 0.95, 8)
    x = denoiser.process.corrupt(x0, Coef(t), lambda like, tag="", kind="normal": eps)
    return (denoiser(x, t, conditions("unet", 8)).value - eps).square().mean().item()


def source() -> Shuffled:
    cond = conditions("unet", 8)
    return Shuffled(states("unet", 8), cond, batch=4, seed=0)


def trainer(delta: Delta, phase: str) -> tuple[Trainer, object, object]:
    base = fixture("unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        adapter = delta.on(base)
    roles = {"student": base.with_(adapter), "adapter": adapter, "teacher": base}
    if phase == "student":
        base.requires_grad_(False)
    return (
        Trainer(roles, Phase(Denoising("student", dropout=0.1), trains=phase, optim=AdamW(lr=1e-2)), seed=0),
        base,
        adapter,
    )


@pytest.mark.parametrize("phase", ["adapter", "student"])
@pytest.mark.parametrize("delta", [LoRA(2), LoRA(2, decompose=True, dropout=0.1), LoHa(2), LoKr(2)], ids=str)
def test_only_the_adapter_moves(delta: Delta, phase: str) -> None:
    run, base, adapter = trainer(delta, phase)
    before, start = bits(base), bits(adapter)
    first = error(base)
    list(run.fit(source(), steps=12))
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
    moved = [k for k, v in adapter.state_dict().items() if not torch.equal(v, start[k])]
    assert set(moved) == {n for n, _ in adapter.named_parameters()}
    assert error(base) == first and error(base.with_(adapter.eval())) < first


def test_training_resumes_to_the_bit(tmp_path: Path) -> None:
    whole, _, adapter = trainer(LoRA(2, dropout=0.2), "adapter")
    list(whole.fit(source(), steps=5))
    for steps in (2, 5):
        part, _, again = trainer(LoRA(2, dropout=0.2), "adapter")
        list(part.fit(source(), steps=steps, folder=tmp_path))
    assert all(torch.equal(v, adapter.state_dict()[k]) for k, v in again.state_dict().items())


def test_from_training_to_a_file_to_a_merged_network(tmp_path: Path) -> None:
    run, base, adapter = trainer(LoRA(2), "adapter")
    list(run.fit(source(), steps=3))
    (again,) = load_adapters(save_adapters(tmp_path / "a.safetensors", adapter), base)["denoiser"]
    with torch.no_grad():
        x, c = states("unet", 2), conditions("unet", 2)
        view = base.with_(adapter.eval())(x, 0.5, c).value
        assert torch.equal(base.with_(again.eval())(x, 0.5, c).value, view)
        assert torch.allclose(bake(base, again)(x, 0.5, c).value, view, atol=1e-5)
