"""Kernels: the same numbers, from other arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from suffuse.caching import FastKernels, FusedResnet, PartiallyFused, Tiled, Winograd
from suffuse.caching.tiled_attention import partially_fused, tiled
from suffuse.caching.winograd import transformed, winograd
from suffuse.core.engine import sample
from suffuse.core.errors import Refused
from suffuse.core.plugin import Setting
from suffuse.core.site import Site
from suffuse.evaluation.operations import operations
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 13), st.integers(1, 13))
def test_winograd_is_the_convolution(batch, channels, out, height, width):
    x, weight, bias = random(batch, channels, height, width), random(out, channels, 3, 3, seed=1), random(out, seed=2)
    torch.testing.assert_close(
        winograd(x, transformed(weight), bias), F.conv2d(x, weight, bias, padding=1), atol=1e-4, rtol=1e-4
    )


def test_winograd_multiplies_less():
    x, weight = random(1, 128, 16, 16), random(128, 128, 3, 3)
    u, counts = transformed(weight), []
    for work in (lambda: winograd(x, u), lambda: F.conv2d(x, weight, padding=1)):
        counts.append(operations(work))
    assert counts[0] < 0.3 * counts[1]


@given(st.integers(1, 70), st.integers(1, 90), st.sampled_from([1, 7, 64, 1000]), st.floats(0.1, 3.0))
def test_attention_in_parts_is_attention(queries, keys, tile, scale):
    q, k, v = random(2, 3, queries, 8), random(2, 3, keys, 8, seed=1), random(2, 3, keys, 5, seed=2)
    plain = F.scaled_dot_product_attention(q, k, v, scale=scale)
    torch.testing.assert_close(partially_fused(q, k, v, scale), plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tiled(q, k, v, scale, tile, tile), plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3, 1, 1, groups=2)]
)
def test_winograd_leaves_other_convolutions_alone(conv):
    assert not Winograd().fits(Site("c", conv, "conv"))


@pytest.mark.parametrize("kernel", [Winograd(), PartiallyFused(), Tiled(8, 8)])
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_whole_networks_stay_what_they_are(kernel, name):
    net = fixture(name)
    chosen = tuple((s.name, kernel) for s in net.sites if kernel.fits(s))
    if not chosen:
        pytest.skip("no such layer")
    x, cond = states(name, 2), conditions(name, 2)
    fast = net.with_(FastKernels(chosen))
    torch.testing.assert_close(fast(x, 0.5, cond).value, net(x, 0.5, cond).value, atol=1e-4, rtol=1e-4)
    assert torch.equal(net.with_(FastKernels())(x, 0.5, cond).value, net(x, 0.5, cond).value)


def test_the_fused_residual_block_is_the_block(monkeypatch):
    from suffuse.caching import kernels

    monkeypatch.setattr(kernels, "_fused", lambda: lambda x, g, w, b, e: F.silu(F.group_norm(x, g, w, b, e)))
    net = fixture("unet")
    chosen = tuple((s.name, FusedResnet()) for s in net.sites if FusedResnet().fits(s))
    x, cond = states("unet", 2), conditions("unet", 2)
    assert chosen
    torch.testing.assert_close(
        net.with_(FastKernels(chosen))(x, 0.5, cond).value, net(x, 0.5, cond).value, atol=1e-5, rtol=1e-4
    )


def test_adapters_further_in_keep_their_part():
    from suffuse.adapters import LoRA

    net = fixture("unet")
    lora = LoRA(2, where="full").on(net)
    with torch.no_grad():
        for p in lora.parameters():
            p.normal_(std=0.3)
    chosen = tuple((s.name, Winograd()) for s in net.sites if Winograd().fits(s))
    x, cond = states("unet", 2), conditions("unet", 2)
    plain = net.with_(lora)(x, 0.5, cond).value
    for items in ((FastKernels(chosen), lora), (lora, FastKernels(chosen))):
        torch.testing.assert_close(net.with_(*items)(x, 0.5, cond).value, plain, atol=1e-3, rtol=1e-3)


def test_transformed_kernels_follow_the_weights():
    net = fixture("unet")
    chosen = tuple((s.name, Winograd()) for s in net.sites if Winograd().fits(s))
    x, cond = states("unet", 2), conditions("unet", 2)
    fast = net.with_(FastKernels(chosen))
    before = fast(x, 0.5, cond).value
    with torch.no_grad():
        weight = next(s for s in net.sites if s.name == chosen[0][0]).module.weight
        weight.mul_(2.0)
    try:
        after = fast(x, 0.5, cond).value
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, net(x, 0.5, cond).value, atol=1e-4, rtol=1e-4)
    finally:
        with torch.no_grad():
            weight.div_(2.0)


def test_kernels_are_chosen_by_measuring_and_refused_elsewhere():
    net = fixture("dit")
    made_for = Setting(model="this")
    found = FastKernels.chosen(net, (2, *states("dit", 1).shape[1:]), cond=conditions("dit", 2), setting=made_for,
                               kernels=[PartiallyFused(), Tiled(8, 8)], rounds=5)  # fmt: skip
    tried = {(name, kernel) for name, kernel, _ in found.report}
    assert tried == {(s.name, k) for s in net.sites.attention() for k in (PartiallyFused(), Tiled(8, 8))}
    assert all(any(r.interval[1] < 1 for n, k, r in found.report if (n, k) == kept) for kept in found.plan.kernels)
    plan = FastKernels((), made_for)
    with pytest.raises(Refused, match="was fitted for model"):
        sample(
            net, (2, *states("dit", 1).shape[1:]), sampler=DDIM(), steps=1, cond=conditions("dit", 2), patches=[plan]
        )
    with pytest.raises(Refused, match="has no layer nowhere"):
        net.with_(FastKernels((("nowhere", Tiled()),)))
