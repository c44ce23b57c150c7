"""Structured Diffusion Guidance against attention written out by hand."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import Refused
from suffuse.guidance import CFG
from suffuse.guidance.structured import StructuredDiffusion, _places
from suffuse.samplers import DDIM
from suffuse.testing import fixtures

SPANS = [{"red": (1, 2), "circle": (2, 4)}, {"blue": (1, 2), "circle": (2, 4)}]


def told(name, given=((True,), (True,))):
    """Two rows whose phrase "red circle" is encoded as something else than in the prompt."""
    base = fixtures.conditions(name, 2)
    phrase = fixtures.conditions(name, 4)[2:]
    alone = [{"red": (1, 2), "circle": (2, 4)}] * 2
    cond = Cond(base.entries, base.alt, SPANS)
    return cond.with_alt(**{"phrase:0": Cond({"text": phrase["text"]}, spans=alone)},
                         phrases=Cond({"given": torch.tensor(given)}))  # fmt: skip


def run(name, cond, patches=(), guidance=None):
    net = fixtures.fixture(name)
    x = fixtures.states(name, 2)
    return sample(net, x, sampler=DDIM(), steps=2, cond=cond, patches=patches, guidance=guidance).x


@pytest.mark.parametrize("name", ["unet", "pixart"])
@pytest.mark.parametrize("conjunction", [False, True])
def test_no_phrase_is_the_base_and_only_rows_with_one_change(name, conjunction):
    patch = StructuredDiffusion(conjunction=conjunction)
    cond = told(name)
    plain = run(name, cond)
    torch.testing.assert_close(run(name, told(name, [[False], [False]]), [patch]), plain, atol=1e-6, rtol=1e-6)
    changed = run(name, cond, [patch])
    assert (changed[0] - plain[0]).abs().max() > 1e-4  # "red circle" stands in the first prompt alone
    torch.testing.assert_close(changed[1], plain[1], atol=1e-6, rtol=1e-6)


def test_one_key_mode_is_attention_with_the_mean_of_values():
    net, cond = fixtures.fixture("unet"), told("unet")
    attn = net.sites.attention("cross")[0].module
    seen = {}
    hook = attn.register_forward_hook(lambda m, a, k, out: seen.update(x=a[0] if a else k["hidden_states"], out=out),
                                      with_kwargs=True)  # fmt: skip
    net.with_(StructuredDiffusion())(fixtures.states("unet", 2), 0.5, cond)
    hook.remove()
    phrased = cond["text"].clone()
    phrased[0, 1:4] = cond.alt["phrase:0"]["text"][0, 1:4]
    heads = lambda v: v.unflatten(2, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
    q, k = heads(attn.to_q(seen["x"])), heads(attn.to_k(cond["text"]))
    v = (heads(attn.to_v(cond["text"])) + heads(attn.to_v(phrased))) / 2
    out = ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(seen["out"], attn.to_out[0](out), atol=1e-5, rtol=1e-5)


def test_the_unconditional_half_is_untouched():
    cond, patch = told("unet"), StructuredDiffusion()
    both = run("unet", cond, [patch], CFG(0.0))
    torch.testing.assert_close(both, run("unet", cond, guidance=CFG(0.0)), atol=1e-6, rtol=1e-6)


def test_places_of_phrases():
    prompt = (("a", 1, 2), ("red", 2, 3), ("hexagon", 3, 5), ("a", 5, 6), ("red", 6, 7))
    phrase = (("a", 1, 2), ("red", 2, 3), ("hexagon", 3, 5))
    assert _places(prompt, phrase) == ((slice(1, 5), slice(1, 5)), (slice(5, 7), slice(1, 3)))  # the second is cut off
    assert _places(prompt, (("blue", 1, 2),)) == ()


def test_phrases_come_from_the_prompt_or_by_hand():
    assert StructuredDiffusion().phrases("a red circle and a star") == ("a red circle", "a star")
    assert StructuredDiffusion(("a star", "a ring")).phrases("a red circle and a star") == ("a star",)
    with pytest.raises(Refused, match="no phrases"):
        run("unet", fixtures.conditions("unet", 2), [StructuredDiffusion()])
    with pytest.raises(Refused, match="no cross-attention"):
        run("sd3", fixtures.conditions("sd3", 2), [StructuredDiffusion()])
