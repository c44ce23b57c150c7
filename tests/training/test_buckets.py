"""Buckets: their shares, one size a batch, the same again, pictures cut to cover."""

from __future__ import annotations

import torch

from suffuse.adapters import ResCLoRA, ResENorm
from suffuse.core.noise import Keyed
from suffuse.core.training import Roles
from suffuse.testing.fixtures import conditions, fixture, states
from suffuse.training import Buckets, Denoising, Phase, Shuffled, Trainer
from suffuse.training.buckets import covering

SIZES = {(4, 4): 4, (8, 8): 8, (16, 16): 16}


def buckets():
    cond = conditions("unet", 4)
    sources = {size: Shuffled(states("unet", 4, size=side), cond, 2) for size, side in SIZES.items()}
    return Buckets(sources, (8, 8))


def draw(source, steps):
    return [source(Roles({}), Keyed(0).fold(k).fold("source"), k) for k in range(steps)]


def test_far_sizes_come_more_often():
    source = buckets()
    assert source.shares == {(4, 4): 32 / 160, (8, 8): 0.0, (16, 16): 128 / 160}
    sides = [b.data.shape[-1] for b in draw(source, 400)]
    assert 8 not in sides and 0.72 < sides.count(16) / 400 < 0.88


def test_a_batch_has_one_size_and_comes_again():
    first, again = draw(buckets(), 6), draw(buckets(), 6)
    assert all(torch.equal(a.data, b.data) and len(a) == 2 for a, b in zip(first, again, strict=True))


def test_aspects_differ_from_the_native_size_too():
    cond = conditions("unet", 2)
    flat = {s: Shuffled(torch.zeros(2, 4, *s), cond, 2) for s in ((4, 16), (8, 8), (8, 16))}
    assert Buckets(flat, (8, 8)).shares == {(4, 16): 80 / 144, (8, 8): 0.0, (8, 16): 64 / 144}


def test_pictures_cover_their_size():
    picture = torch.linspace(-1, 1, 8).expand(1, 3, 8, 8)
    assert torch.equal(covering(picture, (8, 8)), picture)
    assert covering(picture, (16, 8)).shape == (1, 3, 16, 8)
    assert torch.equal(covering(picture, (8, 4)), picture[..., 2:6])


def test_both_parts_train_at_mixed_sizes():
    net = fixture("unet")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    parts = {"lora": ResCLoRA(2).on(net), "norms": ResENorm().on(net)}
    start = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    roles = {"model": net.with_(*parts.values()), **parts}
    for _ in Trainer(roles, Phase(Denoising(), trains=("lora", "norms"))).fit(buckets(), steps=4):
        pass
    for name, part in parts.items():
        assert any(not torch.equal(p, q) for p, q in zip(part.parameters(), start[name], strict=True)), name
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
