"""Extracting, resizing, combining and limiting adapters."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from suffuse.adapters import DiagOFT, FullWeight, LoHa, LoKr, LoRA, bake, combine, extract, limit_norm, resize
from suffuse.adapters.delta import Delta
from suffuse.core.errors import BadInput, Refused
from suffuse.core.patch import Adapter
from suffuse.testing.fixtures import conditions, fixture, states

net = cache(fixture)


def made(delta: Delta, spread: float = 0.05, seed: int = 1) -> Adapter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = delta.on(net("unet"))
        with torch.no_grad():
            for p in adapter.parameters():
                p.add_(spread * torch.randn_like(p))
    return adapter.eval()


@torch.no_grad()
def value(denoiser: nn.Module) -> Tensor:
    return denoiser(states("unet", 2), 0.5, conditions("unet", 2)).value


def error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def change(adapter: Adapter, name: str) -> Tensor:
    return adapter.patch.weight(adapter.part(name), net("unet").net.get_submodule(name).weight)


def test_extract_finds_a_low_rank_difference_again() -> None:
    tuned = bake(net("unet"), made(LoRA(3, where="full")))
    assert error(value(net("unet").with_(extract(net("unet"), tuned, 3))), value(tuned)) < 1e-4
    few = extract(net("unet"), tuned, 16, energy=0.999999)
    assert max(len(part["lora_down"]) for part in few.parts) == 3
    assert error(value(net("unet").with_(few)), value(tuned)) < 1e-2


def test_extract_is_the_nearest_of_its_rank() -> None:
    adapter = made(FullWeight(where=("attn1.to_q",)), 1.0)
    found = extract(net("unet"), bake(net("unet"), adapter), 2, patch=LoRA(2, where=("attn1.to_q",)))
    for name in adapter.names:
        u, s, v = torch.linalg.svd(change(adapter, name))
        assert torch.allclose(change(found, name), u[:, :2] * s[:2] @ v[:2], atol=1e-4)


def test_any_adapter_becomes_a_lora() -> None:
    tuned = bake(net("unet"), made(LoHa(2, where="full")))
    assert error(value(net("unet").with_(extract(net("unet"), tuned, 64))), value(tuned)) < 1e-4


@pytest.mark.parametrize("tucker", [False, True])
def test_resize(tucker: bool) -> None:
    adapter = made(LoRA(6, alpha=3.0, tucker=tucker, where="full"))
    same, small = resize(adapter, 6), resize(adapter, 2)
    whole = value(net("unet").with_(adapter))
    assert error(value(net("unet").with_(same)), whole) < 1e-4
    for name in adapter.names:
        matrix = change(adapter, name).flatten(1)
        s = torch.linalg.svdvals(matrix)
        left = (change(small, name).flatten(1) - matrix).norm()
        assert torch.allclose(left, s[2:].norm(), atol=1e-4)
    assert max(len(part["lora_down"]) for part in small.parts) == 2


def test_combine_is_the_sum() -> None:
    adapters = [
        made(LoRA(2, where="full"), seed=1).scaled(0.7),
        made(LoRA(3, alpha=1.0, tucker=True, where="full"), seed=2),
        made(LoRA(2), seed=3).scaled(-0.5),
    ]
    one = combine(*adapters)
    assert error(value(net("unet").with_(one)), value(net("unet").with_(*adapters))) < 1e-5
    assert max(len(part["lora_down"]) for part in one.parts) == 7


@pytest.mark.parametrize("delta", [LoRA(4), LoHa(4), LoKr(4), FullWeight()], ids=lambda d: type(d).__name__)
def test_limit_norm(delta: Delta) -> None:
    adapter = made(delta, 0.3)
    before = {name: change(adapter, name).detach().clone() for name in adapter.names}
    limit = sorted(d.norm().item() for d in before.values())[len(before) // 2]
    count = limit_norm(adapter, net("unet"), limit)
    assert 0 < count < len(before) == len(adapter.names)
    for name, old in before.items():
        new = change(adapter, name)
        assert torch.allclose(new, old * min(1.0, limit / old.norm().item()), atol=1e-5)
    assert limit_norm(adapter, net("unet"), limit * 1.001) == 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(Refused, match="resize: .* is no plain LoRA"):
        resize(made(LoHa(2)), 1)
    with pytest.raises(Refused, match="combine: .* is no plain LoRA"):
        combine(made(LoRA(2)), made(LoRA(2, decompose=True)))
    with pytest.raises(BadInput, match="none were given"):
        combine()
    with pytest.raises(Refused, match="one architecture"):
        extract(net("unet"), net("sd3"))
    assert limit_norm(made(DiagOFT()), net("unet"), 1e-6) == 0
