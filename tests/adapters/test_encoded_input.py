"""An encoded picture beside the state: exactly nothing at first, and a first layer with more channels afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from suffuse.adapters import EncodedInput
from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.guidance import CFG
from suffuse.resolution import MultiDiffusion
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states

NET = fixture("unet")
CHANNELS = states("unet", 1).shape[1]
Z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def trained():
    adapter = EncodedInput(3).on(NET)
    nn.init.normal_(adapter.parts[0].weight, generator=torch.Generator().manual_seed(1))
    return adapter


def out(net, z=Z, n=2):
    given = {} if z is None else {"encoded": z[:n]}
    return net(states("unet", n), 0.5, conditions("unet", n) | given).value


def test_a_new_one_adds_nothing_and_a_trained_one_something():
    plain = out(NET, None)
    assert torch.equal(out(NET.with_(EncodedInput(3).on(NET))), plain)
    assert (out(NET.with_(trained())) - plain).abs().max() > 1e-2
    assert torch.equal(out(NET.with_(trained().scaled(0.0))), plain)


def test_it_is_a_first_layer_with_more_channels():
    wide, adapter = copy.deepcopy(NET), trained()
    first = wide.net.conv_in
    more = nn.Conv2d(CHANNELS + 3, first.out_channels, first.kernel_size, first.stride, first.padding)
    more.weight.data = torch.cat([first.weight, adapter.parts[0].weight], 1).detach()
    more.bias.data = first.bias.data
    wide.net.conv_in = more
    wide.net.register_to_config(in_channels=CHANNELS + 3)
    expected = wide(states("unet", 2), 0.5, conditions("unet", 2) | {"source": Z}).value
    torch.testing.assert_close(out(NET.with_(adapter)), expected, atol=1e-5, rtol=1e-4)


def test_pictures_and_windows_see_their_own():
    net = NET.with_(trained())
    torch.testing.assert_close(out(net)[:1], out(net, n=1), atol=1e-5, rtol=1e-4)
    z = torch.cat([Z, Z.flip(1)], 3)
    changed = z.clone()
    changed[..., 8:] = 0.0
    how = {"sampler": DDIM(), "steps": 1, "guidance": MultiDiffusion(8, stride=1.0) | CFG(3.0)}
    a, b = (
        sample(net, states("unet", 2, 16)[:, :, :8], cond=conditions("unet", 2) | Cond({"encoded": v}), **how).x
        for v in (z, changed)
    )
    assert torch.equal(a[..., :8], b[..., :8]) and not torch.equal(a[..., 8:], b[..., 8:])


def test_refusals():
    with pytest.raises(BadInput, match="encoded"):
        out(NET.with_(trained()), None)
    with pytest.raises(BadInput, match="encoded"):
        out(NET.with_(trained()), Z[:, :2])
    with pytest.raises(Refused, match="UNet"):
        EncodedInput().on(fixture("sd3"))
