"""U-ViT: shapes, skips, sites."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.errors import BadInput
from suffuse.core.prediction import EPS
from suffuse.core.tokens import to_patches, to_picture
from suffuse.networks import UViT, UViTFamily
from suffuse.processes import VP


def test_patches_and_back():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    tokens = to_patches(x, 2)
    assert tokens.shape == (2, 6, 12)
    assert tokens[0, 0].tolist() == x[0, :, :2, :2].permute(1, 2, 0).flatten().tolist()
    assert torch.equal(to_picture(tokens, 2, 3, 4, 6), x)


@pytest.mark.parametrize("depth", [3, 4])
def test_late_layers_read_the_outputs_of_early_ones(depth):
    torch.manual_seed(0)
    net = UViT((1, 4, 4), width=16, depth=depth, heads=2, classes=3)
    assert [layer.skip is not None for layer in net.layers] == [k >= depth - depth // 2 for k in range(depth)]
    x, t, label = torch.randn(2, 1, 4, 4), torch.tensor([3.0, 900.0]), torch.tensor([0, 2])
    out = net(x, t, label)
    assert out.shape == x.shape
    with torch.no_grad():  # the last layer's skip comes from the first one
        net.layers[-1].skip.weight[:, 16:] = 0.0
    assert not torch.allclose(net(x, t, label), out)


def test_it_runs_as_a_network_of_its_family():
    net = UViT((1, 4, 4), width=16, depth=2, heads=2)
    denoiser = Network(net, UViTFamily(), VP(), EPS)
    assert denoiser(torch.randn(2, 1, 4, 4), 0.5, Cond()).x0.shape == (2, 1, 4, 4)
    assert [s.name for s in denoiser.sites.blocks] == ["layers.0", "layers.1"]
    assert len(denoiser.sites.attention("self")) == 2 and denoiser.sites.of("unit", role="out")[0].name == "exit"
    with pytest.raises(BadInput, match="multiples of 2"):
        denoiser(torch.randn(2, 1, 5, 5), 0.5, Cond())
