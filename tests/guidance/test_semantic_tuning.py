"""Semantic Guidance Tuning: what diverges is found, and only that is steered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import suffuse
from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.guidance import CFG, SemanticGuidanceTuning
from suffuse.guidance.directions import largest
from suffuse.samplers import DDIM
from suffuse.testing import pipelines
from suffuse.testing.fixtures import conditions, fixture, states

STEPS, N = 8, 3


def phrase(k, n=N):
    """Some prompt of the fixture, another for each k."""
    return Cond(conditions("unet", k + 5 + n)[k + 5 : k + 5 + n].entries)


def told(given):
    """The condition of the fixture, with phrases."""
    alone = {f"phrase:{k}": phrase(k) for k in range(given.shape[1])}
    return conditions("unet", N).with_alt(phrases=Cond({"given": given}), **alone)


def settings(rows=slice(0, N)):
    cond = told(torch.ones(N, 2, dtype=torch.bool))
    return {"denoiser": fixture("unet"), "x": states("unet", N)[rows], "cond": cond[rows], "sampler": DDIM(),
            "steps": STEPS}  # fmt: skip


def tuned(**arguments):
    return SemanticGuidanceTuning(**{"start": 0.0, **arguments})


def by_hand(x, at, given, histories, momenta, threshold, w):
    """One step of the formula, sample by sample, in float64."""
    net, cond = given["denoiser"], given["cond"]
    p, null, *found = (
        net(x, at.t, c).value.double() for c in (cond, *(cond.branch(n) for n in ("null", "phrase:0", "phrase:1")))
    )
    out = torch.empty_like(p)
    for b in range(len(x)):
        s_p = p[b] - null[b]
        cut = [largest(v[None], 0.9)[0] * v for v in (f[b] - null[b] for f in found)]
        s_a = largest(s_p[None], 0.9)[0] * s_p
        for v in cut:
            s_a = s_a - (s_a * v).sum() / (v * v).sum() * v
        guidance = 0.0
        for k, v in enumerate([*cut, s_a]):
            histories[b][k].append(
                float(torch.cosine_similarity(s_p.detach().flatten(), v.detach().flatten(), 0).abs())
            )
            recent = histories[b][k][-5:]
            g = v + 0.5 * momenta[b][k] if k < 2 else -(s_p - s_a)
            momenta[b][k] = 0.5 * momenta[b][k] + 0.5 * g
            if sum(recent) / len(recent) < threshold:
                guidance = guidance + g
        out[b] = null[b] + 3.0 * s_p + w * guidance
    return out


def test_a_run_is_the_formula_and_samples_are_steered_apart():
    given = settings()
    guidance = tuned(w=2.0).fit(**given, guidance=CFG(3.0), share=0.5)
    bound = guidance.threshold
    runs = sample(**given, guidance=replace(guidance, abstract=bound) | CFG(3.0), save=lambda r: (r.state.x, r.at))
    histories = [[[], [], []] for _ in range(N)]
    momenta = [[0.0, 0.0, 0.0] for _ in range(N)]
    for (x, at), (after, _) in zip(runs.saved, runs.saved[1:], strict=False):
        value = by_hand(x, at, given, histories, momenta, bound, 2.0)
        frame = replace(given["denoiser"](x, at.t, given["cond"]), value=value.float())
        expected = at.process.posterior(x, frame, at.t, at.s, 0.0).mean
        assert (after - expected).abs().max() < 1e-4 * expected.abs().max()
    curves = SemanticGuidanceTuning.curves(runs.state)
    assert torch.allclose(curves, torch.tensor(histories, dtype=torch.float64).mT, atol=1e-4)
    recent = torch.stack([curves[:, max(0, i - 4) : i + 1].mean(1) for i in range(STEPS)], 1)
    steered = recent < bound
    assert steered.any() and not steered.all() and not torch.equal(steered[0], steered[1])


def test_without_divergence_it_is_the_prompts_guidance_to_the_bit():
    given = settings()
    plain = sample(**given, guidance=CFG(3.0)).x
    for quiet in (tuned(threshold=0.0, abstract=0.0), tuned(w=0.0)):
        assert torch.equal(sample(**given, guidance=quiet | CFG(3.0)).x, plain)


def test_phrases_are_evaluated_in_the_window_alone():
    given = settings()
    windowed = tuned(start=0.25, stop=0.75, threshold=1.1)
    plain, steered = (
        sample(**given, guidance=g, save=lambda run: run.state.x) for g in (CFG(3.0), windowed | CFG(3.0))
    )
    assert steered.nfe.tolist() == [2 * STEPS + 2 * 4] * N
    assert all(torch.equal(a, b) for a, b in zip(plain.saved[:3], steered.saved[:3], strict=True))
    assert not torch.equal(plain.saved[3], steered.saved[3])
    assert SemanticGuidanceTuning.curves(steered.state).shape == (N, 4, 3)
    assert SemanticGuidanceTuning.curves(plain.state) is None


def test_thresholds_follow_the_model():
    given = settings()
    for share in (0.2, 0.8):
        fitted = tuned().fit(**given, guidance=CFG(3.0), share=share)
        seen = SemanticGuidanceTuning.curves(sample(**given, guidance=replace(fitted, w=0.0) | CFG(3.0)).state)
        recent = torch.stack([seen[:, max(0, i - 4) : i + 1].mean(1) for i in range(STEPS)], 1)
        assert (recent[..., :2] < fitted.threshold).double().mean() == pytest.approx(share, abs=0.03)
        assert (recent[..., 2] < fitted.abstract).double().mean() == pytest.approx(share, abs=0.05)
    with pytest.raises(BadInput, match="share=1"):
        tuned().fit(**given, guidance=CFG(3.0), share=1)


def test_samples_may_have_different_phrases():
    given = torch.tensor([[True, True], [True, False], [True, True]])
    guidance = SemanticGuidanceTuning(start=0.0, threshold=1.1, abstract=0.0) | CFG(3.0)
    how = {"denoiser": fixture("unet"), "sampler": DDIM(), "steps": STEPS, "guidance": guidance}
    whole = sample(x=states("unet", N), cond=told(given), **how)
    curves = SemanticGuidanceTuning.curves(whole.state)
    assert curves[1, :, 1].isnan().all() and not curves[[0, 2]].isnan().any() and not curves[1, :, [0, 2]].isnan().any()
    # the sample with one phrase is what it is where there is no other
    got = sample(x=states("unet", N)[[1]], samples=[1], cond=told(given[:, :1])[[1]], **how)
    assert (got.x - whole.x[[1]]).abs().max() < 2e-5 * got.x.abs().max()


def test_phrases_are_those_of_the_prompt_unless_given():
    assert SemanticGuidanceTuning().phrases("a red circle and a blue square") == ("a red circle", "a blue square")
    assert SemanticGuidanceTuning(("red", "blue")).phrases("a red circle and a blue square") == ("red", "blue")
    assert SemanticGuidanceTuning().phrases(None) == ()


def test_generate_encodes_the_phrases(tmp_path):
    pipelines.PIPELINES["sd1"]().save_pretrained(tmp_path)
    model = suffuse.load(tmp_path)
    guidance = SemanticGuidanceTuning(start=0.0, threshold=1.1) | CFG(3.0)
    prompts = ["a red circle and a blue square", "a photo"]
    both = model.generate(prompts, guidance=guidance, steps=2, sampler=DDIM())
    assert both.nfe.tolist() == [8, 8]
    alone = model.generate(prompts[1], guidance=guidance, steps=2, sampler=DDIM(), samples=[1])
    assert alone.nfe.tolist() == [6]
    assert (alone.latents - both.latents[1:]).abs().max() < 1e-4 * both.latents.abs().max()


def test_what_cannot_be_is_refused():
    given = settings()
    given["cond"] = conditions("unet", N)
    with pytest.raises(Refused, match="no phrases"):
        sample(**given, guidance=SemanticGuidanceTuning() | CFG(3.0))
    for wrong in ({"start": 0.5, "stop": 0.5}, {"quantile": 1.0}):
        with pytest.raises(BadInput):
            SemanticGuidanceTuning(**wrong)
