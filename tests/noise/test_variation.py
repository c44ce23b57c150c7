"""Variation seeds: their ends, the angle between, alone as in a batch, steps of the first seed."""

from __future__ import annotations

import pytest
import torch

from suffuse import sample
from suffuse.core.errors import BadInput
from suffuse.core.noise import Keyed
from suffuse.noise import VariationSeed
from suffuse.noise.variation import spherical
from suffuse.samplers import DDPM
from suffuse.testing.fixtures import conditions, fixture, states

LIKE = torch.empty(3, 4, 8, 8)


def start(noise, rows=(0, 1, 2)):
    return noise.normal(LIKE[: len(rows)], list(rows), "start")


def test_the_ends_are_the_seeds():
    assert torch.equal(start(VariationSeed(3, 4, 0.0)), start(Keyed(3)))
    assert torch.equal(start(VariationSeed(3, 4, 1.0)), start(Keyed(4)))


def test_the_way_between_is_a_circle():
    a, b = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 3.0], [1.0, 1.0]])
    half = spherical(a, b, 1 / 3)
    expected = torch.tensor([[3 * 3**0.5 / 2, 1.5], [1.0, 1.0]])  # 30 of 90 degrees; twice the same
    torch.testing.assert_close(half, expected)
    z = start(VariationSeed(3, 4, 0.5))
    torch.testing.assert_close(z.flatten(1).std(1), torch.ones(3), atol=0.15, rtol=0)


def test_a_row_is_what_it_is_alone():
    whole = start(VariationSeed(3, 4, 0.3))
    torch.testing.assert_close(start(VariationSeed(3, 4, 0.3), [2])[0], whole[2])


def test_steps_keep_the_noise_of_the_first_seed():
    noise = VariationSeed(3, 4, 0.5)
    assert torch.equal(noise.normal(LIKE, [0, 1, 2], "step/1"), Keyed(3).normal(LIKE, [0, 1, 2], "step/1"))
    assert torch.equal(noise.uniform(LIKE, [0, 1, 2], "start"), Keyed(3).uniform(LIKE, [0, 1, 2], "start"))
    run = {"sampler": DDPM(), "steps": 3, "cond": conditions("unet", 2)}
    x = states("unet", 2)
    assert torch.equal(sample(fixture("unet"), x, noise=noise, **run).x, sample(fixture("unet"), x, noise=3, **run).x)


def test_strengths_are_shares():
    with pytest.raises(BadInput, match="share of the way"):
        VariationSeed(0, 1, 1.5)
