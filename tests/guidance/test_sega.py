"""SEGA and the Stable Artist: what is steered, when and where."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, SemanticStableDiffusionPipeline

import suffuse
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.expression import parse, unparse
from suffuse.guidance import CFG, SEGA, Concept, StableArtist
from suffuse.guidance.directions import largest, perpendicular, remembered, with_momentum
from suffuse.samplers import DDIM
from suffuse.testing import pipelines
from suffuse.testing.fixtures import conditions, fixture, states

STEPS = 10


def settings(name="unet", rows=slice(0, 2), concepts=("striped", "large")):
    cond = conditions(name, 2)
    for k, text in enumerate(concepts):
        cond = cond.with_alt(**{f"concept:{text}": replace(conditions(name, k + 4)[k + 2 : k + 4], alt={})})
    return {
        "denoiser": fixture(name),
        "x": states(name, 2)[rows],
        "cond": cond[rows],
        "sampler": DDIM(),
        "steps": STEPS,
    }


def outputs(at, **given):
    """(e(p), e(null), e(c_1), e(c_2)) of the first two rows at the state before step `at` of a CFG run."""
    runs = sample(**given, guidance=CFG(3.0), save=lambda run: (run.state.x, run.at)).saved
    x, step = runs[at]
    cond, net = given["cond"], given["denoiser"]
    branches = [cond, *(cond.branch(k) for k in ("null", "concept:striped", "concept:large"))]
    return x, step, [net(x, step.t, c).value for c in branches]


def states_of(guidance, **given):
    return sample(**given, guidance=guidance, save=lambda run: run.state.x).saved


def test_a_mask_has_the_share_of_each_channel_that_it_should_have():
    v = torch.randn(3, 4, 10, 10, generator=torch.Generator().manual_seed(0))
    mask = largest(v, 0.9)
    assert mask.sum((2, 3)).eq(10).all()
    assert (v.abs() * mask).flatten(2).sum(2).allclose(v.abs().flatten(2).topk(10).values.sum(2))
    for q in (0.0, 0.37, 0.999):
        bound = v.abs().flatten(2).quantile(q, dim=2)[..., None, None]
        assert torch.equal(largest(v, q), v.abs() >= bound)
    assert largest(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), 0.75).tolist() == [[False, True, False, False]]


def test_perpendicular_parts_are_taken_in_turn():
    v, a = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    left = perpendicular(v, [a, torch.zeros_like(a)])
    assert ((left * a).flatten(1).sum(1)).abs().max() < 1e-5
    assert torch.equal(perpendicular(v, []), v)


def test_momentum_is_the_recurrence_of_the_paper():
    class Scope(dict):
        pass

    memory, nu = Scope(), 0.0
    for g in (1.0, 2.0, -1.0):
        total = g + 0.1 * nu
        nu = 0.4 * nu + 0.6 * total
        got = with_momentum(memory, "nu", torch.tensor([g], dtype=torch.float64), 0.1, 0.4)
        assert got.item() == pytest.approx(total) and memory["nu"].item() == pytest.approx(nu)


@pytest.mark.parametrize("name", ["unet", "sd3"])
def test_a_step_is_the_formula(name):
    given = settings(name)
    concepts = (Concept("striped", start=0.3, scale=4.0), Concept("large", start=0.3, remove=True, weight=0.5))
    x, at, (p, null, a, b) = outputs(3, **given)
    psi = [4.0 * (a - null) * largest(a - null, 0.9), -5.0 * (b - null) * largest(b - null, 0.9)]
    value = null + 3.0 * (p - null) + psi[0] + 0.5 * psi[1]
    expected = sample(**{**given, "x": x}, guidance=CFG(3.0), start=at.t.item(), stop=at.s.item())
    frame = given["denoiser"](x, at.t, given["cond"])
    law = at.process.posterior(x, replace(frame, value=value), at.t, at.s, 0.0)
    got = states_of(SEGA(concepts, momentum=0.0) | CFG(3.0), **given)[4]
    assert (got - law.mean).abs().max() < 1e-5 * law.mean.abs().max()
    assert (got - expected.x).abs().max() > 1e-3  # and not that of the prompt alone


def test_before_the_warm_up_and_at_scale_zero_nothing_changes_to_the_bit():
    given = settings()
    plain = states_of(CFG(3.0), **given)
    late = states_of(SEGA((Concept("striped", start=0.4),)) | CFG(3.0), **given)
    assert all(torch.equal(a, b) for a, b in zip(plain[:5], late[:5], strict=True))
    assert not torch.equal(plain[5], late[5])
    for method in (SEGA, StableArtist):
        none = method((Concept("striped", scale=0.0, start=0.0),)) | CFG(3.0)
        assert torch.equal(sample(**given, guidance=none).x, plain[-1])


def test_concepts_have_their_own_windows():
    given = settings()
    alone = states_of(SEGA((Concept("striped", start=0.2),), momentum=0.0) | CFG(3.0), **given)
    both = (Concept("striped", start=0.2), Concept("large", start=0.5, stop=0.7))
    pair = states_of(SEGA(both, momentum=0.0) | CFG(3.0), **given)
    assert all(torch.equal(a, b) for a, b in zip(alone[:6], pair[:6], strict=True))
    assert not torch.equal(alone[6], pair[6])


def test_evaluations_are_those_of_the_windows():
    given = settings()
    both = (Concept("striped", start=0.2), Concept("large", start=0.5, stop=0.7))
    assert sample(**given, guidance=SEGA(both) | CFG(3.0)).nfe.tolist() == [10 * 2 + 10 + 7] * 2
    assert sample(**given, guidance=SEGA(both, momentum=0.0) | CFG(3.0)).nfe.tolist() == [10 * 2 + 8 + 2] * 2
    assert SEGA(both, momentum=0.0).evaluations == 4 == SEGA(both).evaluations
    assert sample(**given, guidance=StableArtist(both) | CFG(3.0)).nfe.tolist() == [10 * 2 + 10 + 7] * 2
    # twice the same text is one evaluation
    twice = (Concept("striped", stop=0.5), Concept("striped", start=0.5, remove=True))
    assert sample(**given, guidance=SEGA(twice) | CFG(3.0)).nfe.tolist() == [30, 30]


def test_masks_are_recorded_step_by_step():
    guidance = SEGA((Concept("striped", threshold=0.75), Concept("large")), momentum=0.0) | CFG(3.0)
    result = sample(**settings(), guidance=guidance, save=lambda run: remembered(run.state, SEGA, "masks"))
    assert result.saved[0] is None and result.saved[2] is None
    for masks in result.saved[3:]:
        assert [m.float().mean().item() for m in masks] == pytest.approx([0.25, 7 / 64])
    assert remembered(result.state[[1]], SEGA, "masks")[0].shape == (1, 4, 8, 8)


def test_both_rules_of_the_stable_artist():
    given = settings()
    x, at, (p, null, a, _) = outputs(2, **given)
    for remove in (False, True):
        apart = p - a
        inside = apart < 0.1 if remove else apart > -0.1
        mu = (0.3 / apart.abs()).clamp(max=1.0) * inside
        value = null + 3.0 * (p - null) + (-1 if remove else 1) * 2.0 * mu * (a - null)
        frame = given["denoiser"](x, at.t, given["cond"])
        law = at.process.posterior(x, replace(frame, value=value), at.t, at.s, 0.0)
        concept = Concept("striped", scale=0.3, remove=remove)
        got = states_of(StableArtist((concept,), momentum=0.0, w=2.0) | CFG(3.0), **given)[3]
        assert (got - law.mean).abs().max() < 1e-5 * law.mean.abs().max()
        assert 0 < inside.float().mean() < 1


def test_without_guidance_inside_the_prompt_is_asked_once():
    given = settings()
    for method in (SEGA, StableArtist):
        assert sample(**given, guidance=method((Concept("striped"),))).nfe.tolist() == [30, 30]


def test_expressions():
    guidance = parse('SEGA((Concept("striped", scale=7),)) | CFG(5)')
    assert guidance == SEGA((Concept("striped", scale=7),)) | CFG(5)
    assert parse(unparse(guidance)) == guidance
    assert guidance.prompts() == {"concept:striped": "striped"}


def test_what_cannot_be_is_refused():
    with pytest.raises(BadInput, match="start=0.5, stop=0.5"):
        Concept("striped", start=0.5, stop=0.5)
    with pytest.raises(BadInput, match="quantile"):
        SEGA((Concept("striped", threshold=1.0),))
    with pytest.raises(BadInput, match="give 0 or more"):
        StableArtist((Concept("striped", threshold=-0.1),))
    with pytest.raises(BadInput, match="give a tuple"):
        SEGA(("striped",))
    with pytest.raises(Refused, match="concept:dotted"):
        sample(**settings(), guidance=SEGA((Concept("dotted"),)) | CFG(3.0))


def test_it_is_the_pipeline_of_diffusers(tmp_path):
    pipe = pipelines.PIPELINES["sd1"]()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.save_pretrained(tmp_path)
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    theirs = SemanticStableDiffusionPipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    how = {"num_inference_steps": 5, "guidance_scale": 4.0, "height": 32, "width": 32}
    expected = theirs(
        "a red circle", latents=z, output_type="latent", **how, editing_prompt=["blue", "square"],
        reverse_editing_direction=[False, True], edit_warmup_steps=[2, 2], edit_cooldown_steps=[5, 4],
        edit_guidance_scale=[5.0, 3.0], edit_threshold=[0.9, 0.7], edit_weights=[1.0, 0.5],
    ).images  # fmt: skip
    concepts = (
        Concept("blue", start=0.4),
        Concept("square", scale=3.0, threshold=0.7, weight=0.5, remove=True, start=0.4, stop=0.8),
    )
    ours = suffuse.load(tmp_path).generate("a red circle", latents=z, guidance=SEGA(concepts) | CFG(4.0), steps=5,
                                           sampler=DDIM()).latents  # fmt: skip
    assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
