"""What holds of every adapter of LyCORIS, and what each is."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffuse.adapters import BOFT, IA3, DiagOFT, DyLoRA, FullWeight, GLoRA, LoHa, LoKr, LoRA, Norms, bake
from suffuse.adapters.delta import Delta
from suffuse.adapters.products import split
from suffuse.backbones.encoder import Encoder
from suffuse.core.errors import BadInput, Refused
from suffuse.core.expression import parse, unparse
from suffuse.core.patch import Adapter
from suffuse.testing.fixtures import NAMES, conditions, fixture, states

net = cache(fixture)

EVERY: list[Delta] = [
    LoRA(4, where="full"),
    LoRA(4, alpha=2.0, tucker=True, where="full"),
    LoRA(4, decompose=True, where="full"),
    DyLoRA(4, where="full"),
    GLoRA(4, where="full"),
    GLoRA(4, decompose=True, where="full"),
    LoHa(4, where="full"),
    LoHa(4, tucker=True, decompose=True, where="full"),
    LoKr(4, where="full"),
    LoKr(2, factor=4, decompose_both=True, tucker=True, where="full"),
    LoKr(100000, where="full"),
    FullWeight(where="full"),
    Norms(),
    IA3(where="full"),
    DiagOFT(where="full"),
    BOFT(where="full"),
]


def made(delta: Delta, target: nn.Module, spread: float = 0.05) -> Adapter:
    """An adapter with random numbers in all its tensors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter = delta.on(target)
        with torch.no_grad():
            for p in adapter.parameters():
                p.add_(spread * torch.randn_like(p))
    return adapter.eval()


@torch.no_grad()
def value(denoiser: nn.Module, name: str) -> Tensor:
    return denoiser(states(name, 2), 0.5, conditions(name, 2)).value


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def layer(delta: Delta, module: nn.Module, spread: float = 0.3) -> tuple[Encoder, Adapter]:
    encoder = Encoder(nn.Sequential(module))
    return encoder, made(delta, encoder, spread)


PAIRS = [(name, delta) for name in NAMES for delta in EVERY if name in ("unet", "flux", "dit") or delta is EVERY[0]]


@pytest.mark.parametrize(("name", "delta"), PAIRS, ids=[f"{n}-{unparse(d)}" for n, d in PAIRS])
def test_starts_neutral_merges_and_leaves_the_network_alone(name: str, delta: Delta) -> None:
    if name in ("pixart", "dit") and isinstance(delta, Norms):
        pytest.skip("no norm of its own")
    plain = value(net(name), name)
    assert torch.equal(value(net(name).with_(delta.on(net(name))), name), plain)
    adapter = made(delta, net(name))
    view = value(net(name).with_(adapter), name)
    assert distance(view, plain) > 1e-4
    assert torch.equal(value(net(name).with_(adapter.scaled(0.0)), name), plain)
    assert distance(value(bake(net(name), adapter), name), view) < 1e-5
    assert torch.equal(value(net(name), name), plain)


@pytest.mark.parametrize("delta", EVERY[::3], ids=unparse)
def test_adapters_add_up_at_their_scales(delta: Delta) -> None:
    first, second = made(delta, net("unet")).scaled(0.5), made(LoRA(2), net("unet")).scaled(1.5)
    both = value(net("unet").with_(first, second), "unet")
    assert distance(value(net("unet").with_(second).with_(first), "unet"), both) < 1e-5
    assert distance(value(bake(net("unet"), first, second), "unet"), both) < 1e-5
    assert distance(both, value(net("unet").with_(first), "unet")) > 1e-4


@pytest.mark.parametrize("delta", EVERY, ids=unparse)
def test_gradients_reach_every_tensor_and_no_weight_of_a_frozen_network(delta: Delta) -> None:
    base = fixture("unet").requires_grad_(False)
    adapter = made(delta, base).train()
    base.with_(adapter)(states("unet", 2), 0.5, conditions("unet", 2)).value.square().mean().backward()
    assert all(p.grad is None for p in base.parameters())
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in adapter.parameters())


@pytest.mark.parametrize("delta", EVERY, ids=unparse)
def test_expressions_and_values(delta: Delta) -> None:
    assert parse(unparse(delta)) == delta and copy.copy(delta) == delta


# each -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tucker", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2, "padding": 1}, {"padding": 1, "padding_mode": "circular"}, {"dilation": 2}, {"groups": 2}],
)
def test_convolutions_of_every_kind(settings: dict[str, object], tucker: bool) -> None:
    conv = nn.Conv2d(4, 6, 3, **settings)  # type: ignore[arg-type]
    for delta in (LoRA(2, where="full", tucker=tucker), LoHa(2, where="full", tucker=tucker), LoKr(1, where="full")):
        encoder, adapter = layer(delta, conv)
        weight = conv.weight + delta.weight(adapter.parts[0], conv.weight)
        x = torch.randn(2, 4, 9, 9)
        assert torch.allclose(encoder.with_(adapter)(x), conv._conv_forward(x, weight, conv.bias), atol=1e-5)


def test_lora_is_the_product_of_its_factors() -> None:
    encoder, adapter = layer(LoRA(3, alpha=6.0, where="full"), nn.Linear(7, 5))
    part, linear = adapter.parts[0], encoder.net[0]
    delta = 6.0 / 3 * part["lora_up"] @ part["lora_down"]
    x = torch.randn(2, 4, 7)
    expected = F.linear(x, linear.weight + 0.5 * delta, linear.bias)
    assert torch.allclose(encoder.with_(adapter.scaled(0.5))(x), expected, atol=1e-6)
    assert [tuple(p.shape) for p in adapter.parameters()] == [(3, 7), (5, 3)]


def test_magnitude_and_direction() -> None:
    encoder, adapter = layer(LoRA(2, decompose=True, where="full"), nn.Linear(6, 4))
    part, linear = adapter.parts[0], encoder.net[0]
    whole = linear.weight + part["lora_up"] @ part["lora_down"]
    expected = part["dora_scale"] * whole / whole.norm(dim=1, keepdim=True)
    assert torch.allclose(bake(encoder, adapter).net[0].weight, expected, atol=1e-6)
    assert torch.allclose(bake(encoder, adapter).net[0].weight.norm(dim=1), part["dora_scale"][:, 0].abs(), atol=1e-6)


def test_loha_of_rank_4_reaches_rank_16_and_keeps_only_its_factors() -> None:
    encoder, adapter = layer(LoHa(4, where="full"), nn.Linear(64, 64), spread=1.0)
    delta, part, weight = adapter.patch, adapter.parts[0], encoder.net[0].weight
    dw = delta.weight(part, weight)
    assert torch.linalg.matrix_rank(dw, rtol=1e-5) == 16
    assert (
        torch.linalg.matrix_rank(LoRA(4).weight(layer(LoRA(4, where="full"), nn.Linear(64, 64))[1].parts[0], weight))
        == 4
    )
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v.numel()) or v, lambda v: v):
        delta.weight(part, weight)
    assert sum(n for n in kept if n >= 64 * 64) <= 64 * 64  # the product's own factor of alpha / r
    dw.square().sum().backward()
    named = {n: p.grad.clone() for n, p in part.named_parameters()}
    part.zero_grad()
    plain = (part["hada_w1_a"] @ part["hada_w1_b"]) * (part["hada_w2_a"] @ part["hada_w2_b"])
    plain.square().sum().backward()
    assert all(torch.allclose(named[n], p.grad, rtol=1e-4) for n, p in part.named_parameters())


def test_kronecker_blocks() -> None:
    assert [split(64), split(64, 4), split(60, 7), split(7), split(12, 8)] == [(8, 8), (4, 16), (6, 10), (1, 7), (3, 4)]
    encoder, adapter = layer(LoKr(100000, factor=4, where="full"), nn.Linear(16, 24))
    part = adapter.parts[0]
    assert part["lokr_w1"].shape == (4, 4) and part["lokr_w2"].shape == (6, 4)
    expected = torch.kron(part["lokr_w1"], part["lokr_w2"])
    assert torch.allclose(adapter.patch.weight(part, encoder.net[0].weight), expected, atol=1e-6)
    _, low = layer(LoKr(2, alpha=1.0, factor=2, where="full"), nn.Linear(16, 24))
    part = low.parts[0]
    expected = torch.kron(part["lokr_w1"], 0.5 * part["lokr_w2_a"] @ part["lokr_w2_b"])
    assert torch.allclose(low.patch.weight(part, encoder.net[0].weight), expected, atol=1e-6)


@pytest.mark.parametrize("delta", [DiagOFT(4, where="full"), BOFT(4, where="full")], ids=unparse)
def test_rotations_keep_lengths_and_angles(delta: Delta) -> None:
    encoder, adapter = layer(delta, nn.Linear(6, 16), spread=1.0)
    turned = bake(encoder, adapter).net[0].weight
    assert torch.allclose(turned.T @ turned, encoder.net[0].weight.T @ encoder.net[0].weight, atol=1e-5)
    assert distance(turned, encoder.net[0].weight) > 0.1
    rotation = turned @ torch.linalg.pinv(encoder.net[0].weight)
    mixing = encoder.net[0].weight.new_zeros(16, 16)
    for k in range(16):  # which outputs depend on output k of the layer
        unit = torch.zeros(16, 1)
        unit[k] = 1.0
        mixing[:, k] = (delta.weight(adapter.parts[0], unit) + unit)[:, 0]
    assert (mixing.abs() > 1e-4).all() if isinstance(delta, BOFT) else (mixing.abs() > 1e-4).sum() == 64, rotation.shape


def test_rotations_may_be_bounded() -> None:
    _, free = layer(DiagOFT(4, where="full"), nn.Linear(4, 8), spread=3.0)
    _, bound = layer(DiagOFT(4, constraint=1e-3, where="full"), nn.Linear(4, 8), spread=3.0)
    weight = torch.eye(8)
    sizes = [a.patch.weight(a.parts[0], weight).norm() for a in (free, bound)]
    assert sizes[1] < 0.1 < sizes[0]


def test_dylora_trains_the_last_block_and_works_cut_to_any_rank() -> None:
    encoder, adapter = layer(DyLoRA(6, block=2, where="full"), nn.Linear(8, 8))
    part, weight = adapter.parts[0].train(), encoder.net[0].weight
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        part.zero_grad()
        dw = adapter.patch.weight(part, weight)
        dw.sum().backward()
        rows = [k for k in range(6) if bool((part["lora_down"].grad[k] != 0).any())]
        stop = rows[-1] + 1
        assert rows == [stop - 2, stop - 1]
        expected = (6 / stop) ** 0.5 * part["lora_up"][:, :stop] @ part["lora_down"][:stop]
        assert torch.allclose(dw, expected, atol=1e-6)
        seen.add(stop)
    assert seen == {2, 4, 6}


def test_generalised_lora() -> None:
    encoder, adapter = layer(GLoRA(2, where="full"), nn.Linear(6, 4))
    part, weight = adapter.parts[0], encoder.net[0].weight
    expected = weight @ part["a1"] @ part["a2"] + part["b1"] @ part["b2"]
    assert torch.allclose(adapter.patch.weight(part, weight), expected, atol=1e-6)


def test_one_factor_a_channel() -> None:
    adapter = made(IA3(), net("unet"))
    sides = {n.rsplit(".", 1)[-1]: tuple(p["weight"].shape) for n, p in zip(adapter.names, adapter.parts, strict=True)}
    assert sides["to_k"][1] == 1 and sides["2"][0] == 1
    assert {n.rsplit(".", 1)[-1] for n in adapter.names} == {"to_k", "to_v", "2"}


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8, eps=1e-6)])
def test_norms_get_other_scales(norm: nn.Module) -> None:
    with torch.no_grad():
        for p in norm.parameters():
            p.normal_()
    encoder, adapter = layer(Norms(), norm)
    x = torch.randn(2, 8, 8)
    assert torch.allclose(encoder.with_(adapter)(x), bake(encoder, adapter)(x), atol=1e-5)
    assert distance(encoder.with_(adapter)(x), norm(x)) > 0.1


def test_dropout_is_for_training() -> None:
    encoder, adapter = layer(LoRA(4, dropout=0.5, where="full"), nn.Linear(32, 8))
    view, x = encoder.with_(adapter), torch.randn(3, 32)
    assert torch.equal(view(x), view(x))
    adapter.train()
    assert not torch.equal(view(x), view(x))


# where ----------------------------------------------------------------------------------------------------------------
def test_presets_choose_layers() -> None:
    sites = {n: [s.name for s in LoRA(where=n).sites(net("unet").sites)] for n in
             ("full", "full-lin", "attn-mlp", "attn-only", "cross-attn-only", "unet-convblock-only")}  # fmt: skip
    every = {n for n, m in net("unet").net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert set(sites["full"]) == every and "conv_in" in every
    assert set(sites["full-lin"]) == {n for n in every if isinstance(net("unet").net.get_submodule(n), nn.Linear)}
    assert all(".attn" in n for n in sites["attn-only"]) and all(".attn2." in n for n in sites["cross-attn-only"])
    assert set(sites["attn-only"]) < set(sites["attn-mlp"]) < set(sites["full"])
    assert any(".ff." in n for n in sites["attn-mlp"]) and not any("resnets" in n for n in sites["attn-mlp"])
    assert all("resnets" in n or "samplers" in n for n in sites["unet-convblock-only"])
    assert [s.name.rsplit(".", 1)[1] for s in LoRA(where=("attn2.to_q",)).sites(net("unet").sites)] == ["to_q"] * 4
    for name in ("sd3", "flux", "pixart", "dit"):
        found = [s.name for s in LoRA().sites(net(name).sites)]
        assert not any(".norm" in n for n in found) and any("to_q" in n for n in found)
    assert any("proj_mlp" in s.name for s in LoRA().sites(net("flux").sites))


def test_bad_input_is_named() -> None:
    with pytest.raises(BadInput, match=r"where='attn': no such preset; did you mean 'attn-mlp'|attn-only"):
        LoRA(where="attn").on(net("unet"))
    with pytest.raises(Refused, match="no such linear or conv layer"):
        LoRA(where="cross-attn-only").on(net("dit"))
    with pytest.raises(Refused, match="have no scales"):
        Norms().on(net("dit"))
    with pytest.raises(BadInput, match="rank=0"):
        LoRA(0)
    with pytest.raises(Refused, match="architecture"):
        net("sd3").with_(LoRA().on(net("unet")))
    with pytest.raises(Refused, match="architecture"):
        bake(net("sd3"), LoRA().on(net("unet")))
