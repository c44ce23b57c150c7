"""Scaled attention: identity where nothing changed, the factor by hand, masked keys, joint attention, entropy."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from suffuse import sample
from suffuse.core.errors import BadInput
from suffuse.core.patch import Patch
from suffuse.resolution import VariableSize, attention_entropy
from suffuse.resolution.variable_size import _visible
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states

RUN = {"sampler": DDIM(), "steps": 2, "noise": 3}


def run(name, size, patches=(), n=2):
    x = states(name, n, size=size)
    return sample(fixture(name), x, cond=conditions(name, n), patches=patches, **RUN).x


class Queries(Patch):
    """Keeps what enters the product."""

    def __init__(self):
        self.seen = {}

    def sites(self, net):
        return [s for s in net.attention() if s.role in ("self", "joint")]

    def qkv(self, call, q, k, v):
        self.seen[call.site.name] = (q.clone(), k.shape[2])
        return q, k, v


def queries(name, size, *patches):
    probe = Queries()
    x = states(name, 2, size=size)
    with torch.no_grad():
        fixture(name).with_(*patches, probe)(x, 0.5, conditions(name, 2))
    return probe.seen


@pytest.mark.parametrize("name", ["unet", "unet-sdxl", "sd3", "pixart", "dit"])
def test_the_native_size_is_bit_identical(name):
    assert torch.equal(run(name, 8, [VariableSize()]), run(name, 8))


def test_strength_zero_is_bit_identical_at_other_sizes():
    assert torch.equal(run("unet", 12, [VariableSize().neutral()]), run("unet", 12))
    assert not torch.equal(run("unet", 12, [VariableSize()]), run("unet", 12))


def test_the_factor_of_the_first_layer_by_hand():
    first = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    for size in (4, 12):
        plain, scaled = (queries("unet", size, *p)[first] for p in ((), (VariableSize(),)))
        factor = math.sqrt(math.log(size * size) / math.log(64))
        torch.testing.assert_close(scaled[0], plain[0] * factor)


def test_joint_attention_counts_the_text_which_does_not_change():
    layer = "transformer_blocks.0.attn"
    plain, scaled = (queries("sd3", 12, *p)[layer] for p in ((), (VariableSize(),)))
    assert plain[1] == 36 + 5
    torch.testing.assert_close(scaled[0], plain[0] * math.sqrt(math.log(36 + 5) / math.log(16 + 5)))
    plain, scaled = (queries("flux", 8, *p)[layer] for p in ((), (VariableSize(),)))
    trained = 64 * 64 + 5
    torch.testing.assert_close(scaled[0], plain[0] * math.sqrt(math.log(16 + 5) / math.log(trained)))


def test_a_strength_for_each_layer():
    layers = 3 + 1  # one in the encoder, one in the middle, two in the decoder
    only_first = VariableSize((1.0, *[0.0] * (layers - 1)))
    plain, some, all_ = (queries("unet", 12, *p) for p in ((), (only_first,), (VariableSize(),)))
    first, last = list(plain)[0], list(plain)[-1]
    torch.testing.assert_close(some[first][0], all_[first][0])
    assert not torch.equal(some[last][0], all_[last][0])
    with pytest.raises(BadInput, match="4 self-attention layers"):
        run("unet", 8, [VariableSize((1.0, 1.0))])
    with pytest.raises(BadInput, match="0 or more"):
        VariableSize(-1.0)


def test_masked_keys_are_not_counted():
    k = torch.zeros(2, 1, 4, 2)
    bias = torch.tensor([[[0.0, 0.0, -1e4, -1e4]], [[0.0, 0.0, 0.0, -1e4]]])
    assert _visible(dict(attention_mask=bias), k).tolist() == [2, 3]
    assert _visible(dict(attention_mask=bias == 0), k).tolist() == [2, 3]
    assert _visible(dict(attention_mask=None), k).tolist() == [4]


def test_entropy_of_random_logits_drifts_less():
    generator = torch.Generator().manual_seed(0)
    plain, scaled = [], []
    for n in (64, 256, 1024):
        logits = 1.5 * torch.randn(16, n, generator=generator)
        for found, factor in ((plain, 1.0), (scaled, math.sqrt(math.log(n) / math.log(256)))):
            found.append(torch.special.entr((factor * logits).softmax(-1)).sum(-1).mean().item())
    assert max(scaled) - min(scaled) < 0.9 * (max(plain) - min(plain))


def test_the_probe_measures_each_layer_and_step():
    found = attention_entropy(fixture("unet"), states("unet", 2), cond=conditions("unet", 2), **RUN)
    assert len(found) == 4 and all(v.shape == (2,) for v in found.values())
    x, cond = states("unet", 1, size=8), conditions("unet", 1)
    seen = {}

    class Product(Patch):
        def sites(self, net):
            return net.attention("self")[:1]

        def qkv(self, call, q, k, v):
            seen["p"] = F.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, -1)
            return q, k, v

    sample(fixture("unet"), x, cond=cond, patches=[Product()], sampler=DDIM(), steps=1, noise=3)
    one = attention_entropy(fixture("unet"), x, cond=cond, sampler=DDIM(), steps=1, noise=3)
    expected = -(seen["p"] * seen["p"].log()).sum(-1).mean()
    torch.testing.assert_close(next(iter(one.values()))[0].float(), expected)
