"""Moments by parameter name: tensors of any layout and plain numbers come back as they were."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from suffuse.core.errors import BadInput
from suffuse.training.state import copy_sharing, fingerprint, load_moments, moments, tensors_of


class Counting(torch.optim.Optimizer):
    """A gradient step that shrinks with a whole number of its own, which is not a tensor."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            self.state[p]["n"] = self.state[p].get("n", 0) + 1
            p.sub_(p.grad / self.state[p]["n"])


def convolution() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)


def make(kind: str, net: nn.Module) -> torch.optim.Optimizer:
    if kind == "counting":
        return Counting(net.parameters(), {})
    return torch.optim.AdamW(net.parameters(), fused=kind == "fused", foreach=kind == "foreach")


def step(optimiser: torch.optim.Optimizer, net: nn.Module, seed: int) -> None:
    net(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.mark.parametrize("kind", ["fused", "foreach", "counting"])
def test_moments_continue_to_the_bit(kind):
    one, two = convolution(), convolution()
    whole, first = make(kind, one), make(kind, two)
    for seed in range(4):
        step(whole, one, seed)
    for seed in range(2):
        step(first, two, seed)
    params = dict(two.named_parameters())
    tensors, numbers = moments(first, params)
    second = make(kind, two)
    stored = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    load_moments(second, params, stored, json.loads(json.dumps(numbers)))
    for seed in (2, 3):
        step(second, two, seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert bool(tensors) != (kind == "counting") and bool(numbers) == (kind == "counting")


def test_moments_of_an_unknown_parameter_are_refused():
    net = convolution()
    with pytest.raises(BadInput, match="moments of 'bias2'"):
        load_moments(make("fused", net), dict(net.named_parameters()), {"bias2/exp_avg": torch.zeros(4)}, {})


def test_every_change_of_one_bit_changes_the_fingerprint():
    tensors = {"a": torch.randn(5), "b": torch.arange(3), "c": torch.tensor(True), "d": torch.randn(2).bfloat16()}
    before = fingerprint(tensors)
    assert fingerprint({name: tensor.clone() for name, tensor in tensors.items()}) == before
    for name, tensor in tensors.items():
        words = tensor.clone().reshape(-1).view(torch.uint8)
        for place in range(len(words)):
            words[place] ^= 1
            assert fingerprint({**tensors, name: words.view(tensor.dtype).reshape(tensor.shape)}) != before
            words[place] ^= 1


def test_tied_tensors_are_stored_once_and_copies_share_what_they_are_told_to():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight
    assert list(tensors_of(net)) == ["a.weight", "a.bias", "b.bias"]
    twin = copy_sharing(net, {id(net["b"].bias): net["b"].bias})
    assert twin["b"].bias is net["b"].bias and net["b"].bias.requires_grad
    assert twin["b"].weight is twin["a"].weight is not net["a"].weight and not twin["a"].weight.requires_grad
