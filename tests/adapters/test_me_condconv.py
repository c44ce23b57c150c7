"""ME-CondConv: one convolution with mixed experts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from suffuse.adapters import MECondConv
from suffuse.core.errors import BadInput, Refused
from suffuse.core.value import Coef
from suffuse.evaluation.operations import operations
from suffuse.testing.fixtures import conditions, fixture, states


def predict(net, rows=slice(0, 3)):
    with torch.no_grad():
        return net(states("unet", 3)[rows], Coef(0.4), conditions("unet", 3)[rows]).value


@pytest.fixture
def trained():
    net = fixture("unet")
    adapter = MECondConv(3).on(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for p in adapter.parameters():
            nn.init.normal_(p, 0.0, 0.2)
    return net, adapter


@pytest.mark.parametrize("experts", [1, 2, 4])
def test_it_begins_as_the_network(experts):
    net = fixture("unet")
    torch.testing.assert_close(predict(net.with_(MECondConv(experts).on(net))), predict(net), atol=1e-4, rtol=1e-4)


def test_the_sum_of_experts_by_hand(trained):
    net, adapter = trained
    name = "conv_in"
    part, conv, x = adapter.parts[adapter.names.index(name)], net.net.conv_in, states("unet", 3)
    r = torch.sigmoid(part.route(x.mean((2, 3))))
    by_hand = torch.stack([
        sum(r[b, j] * F.conv2d(x[b : b + 1], conv.weight + part.change[j], None, padding=1)[0] for j in range(3))
        + conv.bias[:, None, None]
        for b in range(3)
    ])  # fmt: skip
    only = MECondConv(3, where=(name,)).on(net)
    only.load_state_dict({k.replace(f"parts.{adapter.names.index(name)}.", "parts.0."): v
                          for k, v in adapter.state_dict().items()
                          if f"parts.{adapter.names.index(name)}." in k})  # fmt: skip
    seen = []
    handle = net.net.down_blocks[0].register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append(kwargs.get("hidden_states", args[0] if args else None)), with_kwargs=True
    )
    predict(net.with_(only))
    handle.remove()
    scaled = net.process.scale(Coef(0.4))
    assert scaled is None
    torch.testing.assert_close(seen[0], by_hand, atol=1e-5, rtol=1e-4)


def test_rows_are_their_own_and_cost_one_convolution(trained):
    net, adapter = trained
    view = net.with_(adapter)
    whole = predict(view)
    assert not torch.allclose(whole, predict(net), atol=1e-3)
    torch.testing.assert_close(predict(view, slice(1, 2)), whole[1:2], atol=1e-5, rtol=1e-4)

    def flops(n):
        return operations(lambda: predict(n))

    mixing = sum(p.change.numel() * 3 * 2 + p.route.weight.numel() * 3 * 2 for p in adapter.parts)
    assert flops(view) <= flops(net) + mixing


def test_it_trains(trained):
    net, adapter = trained
    net.with_(adapter)(states("unet", 2), Coef(0.4), conditions("unet", 2)).value.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapter.parameters())


def test_refusals():
    with pytest.raises(BadInput, match="experts=0"):
        MECondConv(0)
    with pytest.raises(Refused, match="no such convolutions"):
        MECondConv(where=("nowhere",)).on(fixture("unet"))
