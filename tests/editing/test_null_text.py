"""Null-text inversion: the fitted unconditional branch brings guided sampling back to the picture."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import BadInput, Refused
from suffuse.editing import DDIMInversion, NullText, PromptToPrompt, decode
from suffuse.guidance.adaptive import AdaptiveGuidance
from suffuse.guidance.cfg import CFG

from .editing_toys import STEPS, close, net, pictures, plan, prompts

FIT = NullText(6, rate=0.1, stop=0.0)


def error(inverter, name="unet"):
    a, b = prompts(name)
    p = plan(name)
    return float((decode(p, inverter.encode(p, pictures(name), a), a, b).source - pictures(name)).square().mean())


@pytest.mark.parametrize("name", ["unet", "sd3"])
def test_the_picture_comes_back_better_than_by_plain_inversion(name):
    assert error(FIT, name) < 0.8 * error(DDIMInversion(), name)


def test_decoding_repeats_what_was_fitted():
    """The last state of the fit is the source branch of decoding."""
    a, b = prompts("unet")
    p = plan("unet")
    code = FIT.encode(p, pictures("unet"), a)
    assert code.extras["text"].shape == (2, STEPS, *a["text"].shape[1:])
    once, again = decode(p, code, a, b), decode(p, code, a, b, [PromptToPrompt()])
    assert close(once.source, again.source)
    assert not close(once.target, again.target, 1e-4)


def test_a_batch_is_what_its_pictures_are_alone():
    a, _ = prompts("unet")
    p, fit = plan("unet"), NullText(4, rate=0.1, stop=0.02)
    both = fit.encode(p, pictures("unet"), a)
    for k in (0, 1):
        alone = fit.encode(p, pictures("unet")[k : k + 1], a[k : k + 1])
        assert close(both.extras["text"][k : k + 1], alone.extras["text"], 1e-4)


def test_without_iterations_it_is_plain_inversion():
    a, b = prompts("unet")
    p = plan("unet")
    none, plain = (decode(p, i.encode(p, pictures("unet"), a), a, b) for i in (NullText(0), DDIMInversion()))
    assert close(none.source, plain.source) and close(none.target, plain.target)


def test_pictures_that_are_near_enough_spend_nothing_more():
    a, _ = prompts("unet")
    p = plan("unet")
    code = NullText(5, stop=1e9).encode(p, pictures("unet"), a)
    moved = (code.extras["text"][:, 1:] - code.extras["text"][:, :-1]).abs().amax((0, 2, 3))
    assert bool((moved <= 0.0101).all())  # one step of Adam each


def test_the_networks_own_gradients_stay_untouched():
    FIT.encode(plan("unet"), pictures("unet"), prompts("unet")[0])
    assert all(p.grad is None for p in net("unet").parameters())


def test_the_code_belongs_to_its_scale():
    a, b = prompts("unet")
    code = NullText(1).encode(plan("unet", CFG(3.0)), pictures("unet"), a)
    with pytest.raises(Refused, match="fitted for guidance"):
        decode(plan("unet", CFG(5.0)), code, a, b)


def test_other_guidance_and_numbers_are_refused():
    a, _ = prompts("unet")
    with pytest.raises(Refused, match="use CFG on a text model"):
        NullText().encode(plan("unet", AdaptiveGuidance()), pictures("unet"), a)
    with pytest.raises(BadInput, match="iterations=-1"):
        NullText(-1)


def test_nothing_is_fitted_to_the_pooled_text_of_a_unet():
    code = NullText(1).encode(plan("unet"), pictures("unet"), prompts("unet")[0])
    assert set(code.extras) == {"text"}
    assert set(NullText(1).encode(plan("sd3"), pictures("sd3"), prompts("sd3")[0]).extras) == {"text", "pooled"}
    assert torch.isfinite(code.extras["text"]).all()


def test_one_null_for_all_steps():
    a, _ = prompts("unet")
    code = NullText(2, rate=0.1, each=False).encode(plan("unet"), pictures("unet"), a)
    text = code.extras["text"]
    assert bool((text == text[:, :1]).all()) and not torch.equal(text[:, 0], a.alt["null"]["text"])


@pytest.mark.parametrize("pivot", ["noise", "none"])
def test_random_pivots_start_from_noise(pivot):
    a, b = prompts("unet")
    p = plan("unet")
    code = NullText(2, rate=0.1, pivot=pivot).encode(p, pictures("unet"), a)
    z = p.noise.normal(code.x, range(2), "pivot/0" if pivot == "none" else "pivot")
    process, t = p.denoiser.process, p.grid.node(0)
    assert close(code.x, process.alpha(t) * pictures("unet") + process.sigma(t) * z)
    assert torch.isfinite(decode(p, code, a, b).source).all()


def test_the_prompt_may_be_fitted_instead():
    a, b = prompts("unet")
    p, fit = plan("unet"), NullText(6, rate=0.1, stop=0.0, branch="cond")
    code = fit.encode(p, pictures("unet"), a)
    plain = decode(p, DDIMInversion().encode(p, pictures("unet"), a), a, b)
    found = decode(p, code, a, b)
    assert (found.source - pictures("unet")).square().mean() < 0.9 * (plain.source - pictures("unet")).square().mean()
    assert close(found.target, plain.target)  # it has its own prompt


def test_unknown_ablations_are_refused():
    with pytest.raises(BadInput, match="pivot='inversoin'"):
        NullText(pivot="inversoin")
    with pytest.raises(BadInput, match="branch='target'"):
        NullText(branch="target")
