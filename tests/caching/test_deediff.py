"""DeeDiff: rows leave where their layer is sure, and nothing behind is computed for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suffuse.caching import DeeDiff, EarlyExit, calibrated
from suffuse.caching.deediff import heads, with_heads
from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.noise import Keyed
from suffuse.core.prediction import EPS
from suffuse.core.tokens import to_picture
from suffuse.core.training import Batch, Roles
from suffuse.networks import UViT, UViTFamily
from suffuse.processes import VP
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states

SHAPE, DEPTH = (4, 1, 4, 4), 4


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    return Network(UViT(SHAPE[1:], width=16, depth=DEPTH, heads=2), UViTFamily(), VP(), EPS)


def decided(exits, bias):
    """Heads whose uncertainty is the same everywhere."""
    for head, b in zip(heads(exits).values(), bias, strict=True):
        with torch.no_grad():
            head.doubt.weight.zero_()
            head.doubt.bias.fill_(b)
    return exits


def run(denoiser, *patches, x=SHAPE, **more):
    return sample(denoiser, x, sampler=DDIM(), steps=3, patches=patches, **more)


def test_without_a_threshold_it_is_the_plain_network(denoiser):
    exits = DeeDiff().on(denoiser)
    assert list(heads(exits)) == ["layers.0", "layers.1", "layers.2"]
    assert torch.equal(run(denoiser, exits).x, run(denoiser).x)


def test_a_sure_layer_is_the_last_one_and_its_head_answers(denoiser):
    exits, calls = decided(DeeDiff().on(denoiser), [5.0, -5.0, -5.0]), []
    for k, layer in enumerate(denoiser.net.layers):
        layer.register_forward_hook(lambda m, a, o, k=k: calls.append(k))
    x = torch.randn(SHAPE)
    value = denoiser.with_(with_heads(exits, 0.5))(x, 0.3).value
    assert calls == [0, 1]
    kept = []
    denoiser.net.layers[1].register_forward_hook(lambda m, a, o: kept.append(o))
    denoiser(x, 0.3)
    g, _ = exits.part("layers.1")(kept[0], torch.full((4,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(value, to_picture(g[:, 1:], 2, 1, 4, 4))


def test_each_row_leaves_where_it_is_sure(denoiser):
    exits = DeeDiff().on(denoiser)
    for head in heads(exits).values():
        torch.nn.init.normal_(head.doubt.weight, std=2.0)
    tried = [run(denoiser, with_heads(exits, theta)) for theta in (0.1, 0.3, 0.5)]
    layers = [DeeDiff.layers(r.state) for r in tried]
    assert layers[0].shape == (4, 3) and len({tuple(v.flatten().tolist()) for v in layers}) == 3
    assert any(v.float().std(0).max() > 0 for v in layers)
    whole = tried[1]
    alone = run(denoiser, with_heads(exits, 0.3), x=torch.Size((1, *SHAPE[1:])), samples=[2])
    torch.testing.assert_close(alone.x, whole.x[2:3], atol=1e-5, rtol=1e-4)
    assert torch.equal(DeeDiff.layers(alone.state)[0], layers[1][2])


def test_thresholds_are_found_for_a_share_of_the_layers(denoiser):
    exits = DeeDiff().on(denoiser)
    for head in heads(exits).values():
        torch.nn.init.normal_(head.doubt.weight, std=1.0)
    shares = []
    for share in (0.4, 0.7, 1.0):
        fast = calibrated(denoiser, exits, (32, *SHAPE[1:]), share, sampler=DDIM(), steps=3)
        found = DeeDiff.layers(run(denoiser, fast, x=(32, *SHAPE[1:])).state)
        shares.append(found.double().mean().item() / DEPTH)
    assert shares[0] < shares[1] < shares[2] == 1.0
    assert abs(shares[0] - 0.4) < 0.15 and abs(shares[1] - 0.7) < 0.15
    with pytest.raises(BadInput, match="share=0"):
        calibrated(denoiser, exits, SHAPE, 0.0, sampler=DDIM(), steps=3)


def test_the_objective_teaches_heads_and_network(denoiser):
    exits = DeeDiff().on(denoiser)
    batch = Batch(torch.randn(SHAPE), Cond(), torch.arange(4))
    roles = Roles({"model": denoiser, "exits": exits})

    def loss(objective):
        return objective(roles, batch, Keyed(0), objective.parts(roles))

    whole, bare = loss(EarlyExit()), loss(EarlyExit(doubt=0.0, layers=0.0))
    torch.testing.assert_close(
        bare.per_sample, EarlyExit().denoising(roles, batch, Keyed(0), torch.nn.ModuleDict()).per_sample
    )
    assert (whole.per_sample > bare.per_sample).all()
    whole.total.backward()
    assert all(p.grad is not None for p in exits.parameters())
    assert denoiser.net.entry.weight.grad is not None
    # what weighs the outputs does not learn from them
    exits.zero_grad()
    loss(EarlyExit(doubt=0.0)).total.backward()
    assert not exits.part("layers.0").doubt.weight.grad.any()
    assert not torch.equal(loss(EarlyExit(aware=False)).per_sample, whole.per_sample)


def test_heads_fit_any_row_of_layers_and_no_unet():
    dit = fixture("dit")
    exits = decided(DeeDiff().on(dit), [-5.0] * (len(dit.sites.blocks) - 1))
    out = dit.with_(with_heads(exits, 0.5))(states("dit", 2), 0.5, conditions("dit", 2))
    assert out.value.shape == states("dit", 2).shape
    with pytest.raises(Refused, match="use DeepCache"):
        DeeDiff().on(fixture("unet"))
    with pytest.raises(BadInput, match="threshold"):
        replace(DeeDiff(), threshold=2.0)
