"""Changes of biases alone, and of batch norms: what a network with changed parameters would return."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from suffuse.adapters import Biases, LoRA, Norms, bake
from suffuse.backbones.encoder import Encoder
from suffuse.core.errors import Refused
from suffuse.testing.fixtures import conditions, fixture, states


def net():
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.Flatten(), nn.Linear(64, 3)
    )
    made(torch.randn(20, 2, 6, 6))  # statistics other than 0 and 1
    return made.eval()


def moved(patch, known):
    adapter = patch.on(Encoder(known))
    with torch.no_grad():
        for p in adapter.parameters():
            p.normal_(0.0, 0.5)
    return adapter


@pytest.mark.parametrize("training", [False, True])
def test_they_are_changes_of_the_parameters(training):
    known, x = net(), torch.randn(5, 2, 6, 6)
    biases, norms = moved(Biases(), known), moved(Norms(), known)
    assert biases.names == ["0", "5"] and norms.names == ["1"]
    changed = copy.deepcopy(known).train(training)
    with torch.no_grad():
        changed[0].bias += biases.part("0")["diff_b"]
        changed[5].bias += biases.part("5")["diff_b"]
        changed[1].weight += norms.part("1")["w_norm"]
        changed[1].bias += norms.part("1")["b_norm"]
    encoder = Encoder(copy.deepcopy(known).train(training))
    found = encoder.with_(biases, norms, LoRA(2, where="full").on(encoder))(x)
    torch.testing.assert_close(found, changed(x), rtol=1e-4, atol=1e-5)
    for at in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(encoder.net[1], at), getattr(changed[1], at))
    weaker = encoder.eval().with_(biases.scaled(0.0))(x)
    torch.testing.assert_close(weaker, encoder(x))


def test_baked_into_a_denoiser_they_stay_what_they_were():
    base = fixture("unet")
    x, c = states("unet", 2), conditions("unet", 2)
    adapter = Biases().on(base)
    with torch.no_grad():
        for p in adapter.parameters():
            p.normal_(0.0, 0.1)
    torch.testing.assert_close(
        bake(base, adapter)(x, 0.5, c).value, base.with_(adapter)(x, 0.5, c).value, rtol=1e-4, atol=1e-5
    )


def test_networks_without_biases_are_refused():
    with pytest.raises(Refused, match="have no biases"):
        Biases().on(Encoder(nn.Sequential(nn.Linear(2, 2, bias=False))))
