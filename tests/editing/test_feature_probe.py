"""Features of the decoder: where they are sampled, and their gradient."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import Refused
from suffuse.core.value import Coef
from suffuse.editing.feature_probe import FeatureProbe, bilinear, centres, nearest
from suffuse.testing.fixtures import conditions, fixture, states


def test_a_linear_field_is_sampled_exactly_wherever_the_grid_stands():
    """x + 100 y at pixel centres, on grids of any fineness, is itself between the centres of border cells."""
    points = torch.tensor([[[20.5, 31.25], [8.0, 50.0]], [[33.0, 12.5], [40.75, 20.0]]])
    for h, w in ((16, 16), (32, 32), (16, 32)):
        q = centres(h, w, (64, 64))
        field = (q[:, 0] + 100 * q[:, 1]).view(1, 1, h, w).expand(2, 1, h, w)
        assert torch.allclose(
            bilinear(field, points, (64, 64))[..., 0], points[..., 0] + 100 * points[..., 1], rtol=1e-5
        )


def test_cells_are_row_by_row_and_nearest_takes_them_as_they_are():
    v = torch.arange(6.0).view(1, 1, 2, 3)
    assert centres(2, 3, (8, 12)).tolist() == [[2, 2], [6, 2], [10, 2], [2, 6], [6, 6], [10, 6]]
    assert nearest(v, centres(2, 3, (8, 12))[None], (8, 12))[..., 0].tolist() == [[0, 1, 2, 3, 4, 5]]
    beyond = torch.tensor([[[-1.0, 2.0], [13.0, 6.0]]])
    assert nearest(v, beyond, (8, 12), "zeros")[..., 0].tolist() == [[0, 0]]
    assert nearest(v, beyond, (8, 12))[..., 0].tolist() == [[0, 5]]


def test_features_have_the_gradient_of_the_state_and_change_nothing():
    net, x, cond, probe = fixture("unet"), states("unet", 2), conditions("unet", 2), FeatureProbe((1, 0))
    plain = net(x, Coef(0.5), cond)
    z = x.clone().requires_grad_()
    assert torch.equal(net.with_(probe)(z, Coef(0.5), cond).eps, plain.eps)
    last, first = probe.maps
    assert last.shape[1:] == (8, 8, 8) and first.shape[1] == 16
    (slope,) = torch.autograd.grad(bilinear(last, torch.full((2, 1, 2), 3.0), (8, 8)).sum(), z)
    assert slope.abs().sum() > 0 and all(p.grad is None for p in net.parameters())
    assert probe.joined((4, 4)).shape == (2, 24, 4, 4)


@pytest.mark.parametrize("name, blocks", [("unet", (2,)), ("pixart", (0,))])
def test_networks_without_such_blocks(name, blocks):
    with pytest.raises(Refused, match="decoder blocks"):
        fixture(name).with_(FeatureProbe(blocks))
