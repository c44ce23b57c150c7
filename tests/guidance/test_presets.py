"""Guidances that users take for granted: each does what its equation says, and nothing at its neutral setting."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.guiders.guider_utils import rescale_noise_cfg

from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.guidance import Guidance
from suffuse.core.plugin import Needs
from suffuse.core.predict import Predict
from suffuse.core.prediction import X0, V
from suffuse.core.sampler import Sampler
from suffuse.core.value import Coef, combine
from suffuse.guidance import (
    APG,
    CFG,
    PAG,
    SEG,
    Autoguidance,
    BlurredQueries,
    Branch,
    CFGPlusPlus,
    CFGZeroStar,
    DynamicThresholding,
    GuidanceInterval,
    GuidanceRescale,
    IdentityAttention,
)
from suffuse.guidance.perturbed import _filter, _grid
from suffuse.processes import VP, Flow
from suffuse.samplers import DDIM, DDPM, DEIS, DPMSolverPP, EulerAncestral, Heun, UniPC
from suffuse.testing.analytic import GaussianMixture
from suffuse.testing.fixtures import conditions, fixture, states

KINDS = ("unet", "unet-v", "sd3")
STEPS = 4


def settings(name, **changes):
    return {
        "denoiser": fixture(name),
        "x": states(name, 2),
        "cond": conditions(name, 2),
        "sampler": DDIM(),
        "steps": STEPS,
        **changes,
    }


def close(a, b, tolerance=2e-5):
    assert (a - b).abs().max() <= tolerance * b.abs().max()


@dataclass(frozen=True, eq=False)
class Watch(Guidance):
    """Keeps what the guidance inside predicted, and both plain predictions."""

    seen: list

    def __call__(self, predict: Predict, x, t, cond, at):
        p = predict(x, t, cond)
        pc, pu = predict.plain(x, t, cond, "cond"), predict.plain(x, t, cond.branch("null"), "null")
        self.seen.append((p, pc, pu, at))
        return p


def watched(name, guidance, **changes):
    seen = []
    sample(**settings(name, guidance=Watch(seen) | guidance, **changes))
    return seen


# rescaling and intervals ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("phi", [0.7, 1.0])
def test_rescaling_is_that_of_diffusers_in_the_output(name, phi):
    for p, pc, pu, _ in watched(name, GuidanceRescale(phi) | CFG(5.0)):
        close(p.value, rescale_noise_cfg(pu.value + 5.0 * (pc.value - pu.value), pc.value, phi))


@pytest.mark.parametrize("name", KINDS)
def test_rescaling_of_x0_gives_it_the_spread_of_the_conditional_one(name):
    for p, pc, _, _ in watched(name, GuidanceRescale(1.0, "x0") | CFG(5.0)):
        close(p.x0.flatten(1).std(1), pc.x0.flatten(1).std(1))


def test_rescaling_costs_nothing_and_refuses_what_tells_nothing():
    assert sample(**settings("unet", guidance=GuidanceRescale() | CFG(5.0))).nfe.tolist() == [2 * STEPS] * 2
    with pytest.raises(Refused, match="at pure noise eps tells nothing"):
        sample(**settings("sd3", guidance=GuidanceRescale(0.7, "eps") | CFG(5.0)))
    with pytest.raises(BadInput, match="space='noise'"):
        GuidanceRescale(0.7, "noise")


def test_dynamic_thresholding_by_hand():
    x0 = torch.tensor([[-3.0, -1.0, 0.5, 2.0], [-0.5, 0.2, 0.1, 0.4]])
    law = GaussianMixture(x0[:1], VP(), kind=X0)

    @dataclass(frozen=True)
    class Fixed(Guidance):
        def __call__(self, predict, x, t, cond, at):
            return predict(x, t, cond).with_(x0=x0)

    found = []
    sample(law, torch.zeros(2, 4), sampler=DDIM(), steps=1, guidance=Watch0(found) | DynamicThresholding(1.0) | Fixed())
    close(found[0], torch.tensor([[-1.0, -1 / 3, 0.5 / 3, 2 / 3], [-0.5, 0.2, 0.1, 0.4]]))
    found.clear()
    sample(
        law, torch.zeros(2, 4), sampler=DDIM(), steps=1, guidance=Watch0(found) | DynamicThresholding(2 / 3) | Fixed()
    )
    close(found[0][0], torch.tensor([-1.0, -0.5, 0.25, 1.0]))  # the 2/3-quantile of 0.5, 1, 2, 3 is 2


@dataclass(frozen=True, eq=False)
class Watch0(Guidance):
    """Keeps predictions of x0."""

    seen: list

    def __call__(self, predict, x, t, cond, at):
        p = predict(x, t, cond)
        self.seen.append(p.x0)
        return p


@pytest.mark.parametrize("name", KINDS)
def test_an_interval_of_noise_levels_guides_there_and_saves_evaluations_elsewhere(name):
    process, grid = fixture(name).process, torch.linspace(1, 0, STEPS + 1)
    within = [0.28 < process.rho(Coef(float(t))).item() <= 3.0 for t in grid[:-1]]
    assert 0 < sum(within) < STEPS
    run = sample(**settings(name, guidance=GuidanceInterval(0.28, 3.0) | CFG(5.0)))
    assert run.nfe.tolist() == [STEPS + sum(within)] * 2
    for (p, pc, pu, _), inside in zip(watched(name, GuidanceInterval(0.28, 3.0) | CFG(5.0)), within, strict=True):
        close(p.value, pu.value + 5.0 * (pc.value - pu.value) if inside else pc.value)


@pytest.mark.parametrize("name", KINDS)
def test_samples_of_a_batch_may_stand_within_and_without(name):
    net, x, cond = fixture(name), states(name, 3), conditions(name, 3)
    t = torch.tensor([0.95, 0.4, 0.02])
    guided = net.guided(GuidanceInterval(0.28, 3.0) | CFG(5.0))
    whole = guided(x, t, cond).value
    for k in range(3):
        close(guided(x[k : k + 1], t[k : k + 1], cond[torch.tensor([k])]).value, whole[k : k + 1])
    plain = net(x, t, cond).value
    assert torch.allclose(whole[[0, 2]], plain[[0, 2]], atol=1e-5) and not torch.allclose(whole[1], plain[1], atol=1e-3)


# CFG++ ----------------------------------------------------------------------------------------------------------------
def by_hand(name, scale, noise=None):
    """x_s = alpha_s x0_lambda + sigma_s e_null, or with the ancestral share of fresh noise."""
    net, cond = fixture(name), conditions(name, 2)
    process, x, grid = net.process, states(name, 2), torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    for i in range(STEPS):
        t, s = Coef(float(grid[i])), Coef(float(grid[i + 1]))
        pc, pu = net(x, t, cond), net(x, t, cond.branch("null"))
        clean = scale * pc.x0 + (1 - scale) * pu.x0
        std = process.reverse_std(t, s).item() if noise else 0.0
        sigma = process.sigma(s).item()
        x = process.alpha(s).item() * clean + math.sqrt(max(sigma**2 - std**2, 0.0)) * pu.eps
        if noise:
            x = x + std * noise(x, i)
    return x


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_cfg_plus_plus_renoises_with_the_unconditional_noise(name):
    close(sample(**settings(name, guidance=CFGPlusPlus(0.6))).x, by_hand(name, 0.6))


@torch.no_grad()
def test_cfg_plus_plus_with_fresh_noise():
    from suffuse.core.noise import Keyed

    drawn = by_hand("unet-v", 0.6, lambda x, i: Keyed(0).normal(x, (0, 1), f"step/{i}"))
    for sampler in (DDPM(), EulerAncestral(), DPMSolverPP(1, sde=True)):
        close(sample(**settings("unet-v", guidance=CFGPlusPlus(0.6), sampler=sampler)).x, drawn, 1e-4)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_with_ddim_it_is_cfg_at_a_scale_of_its_own(name):
    """lambda rho_t / (rho_t - rho_s)."""

    @dataclass(frozen=True)
    class Scaled(Guidance):
        def __call__(self, predict, x, t, cond, at):
            ratio = at.process.rho(at.s) / at.process.rho(t)
            return CFG(0.6 / (1.0 - ratio.item()))(predict, x, t, cond, at)

    close(sample(**settings(name, guidance=CFGPlusPlus(0.6))).x, sample(**settings(name, guidance=Scaled())).x, 1e-4)


@dataclass(frozen=True)
class ByNoiseAlone(Sampler):
    """Moves a state along eps and never through x0."""

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    def step(self, predict, x, at, memory):
        process = at.process
        a = process.alpha(at.s) / process.alpha(at.t)
        return combine((a, x), (process.sigma(at.s) - a * process.sigma(at.t), predict(x, at.t).eps)), memory


@torch.no_grad()
def test_cfg_plus_plus_runs_on_every_sampler_that_goes_through_x0_and_on_no_other():
    null = sample(**settings("unet-v", guidance=CFG(0.0))).x
    for sampler in (DPMSolverPP(2), DPMSolverPP(3, sde=True), DEIS(2), UniPC(2)):
        guided = sample(**settings("unet-v", guidance=CFGPlusPlus(0.6), sampler=sampler)).x
        assert (guided - sample(**settings("unet-v", guidance=CFG(0.0), sampler=sampler)).x).abs().max() > 1e-3
        level = sample(**settings("unet-v", guidance=CFGPlusPlus(0.0), sampler=sampler)).x
        close(level, sample(**settings("unet-v", guidance=CFG(0.0), sampler=sampler)).x, 1e-4)
    close(sample(**settings("unet-v", guidance=CFGPlusPlus(0.0))).x, null)
    with pytest.raises(Refused, match="moves by the noise alone"):
        sample(**settings("unet-v", guidance=CFGPlusPlus(0.6), sampler=ByNoiseAlone()))
    with pytest.raises(Refused, match="one evaluation a step"):
        sample(**settings("unet-v", guidance=CFGPlusPlus(0.6), sampler=Heun()))
    with pytest.raises(Refused, match="outermost"):
        sample(**settings("unet-v", guidance=CFG(2.0) | CFGPlusPlus(0.6)))


# CFG-Zero* ------------------------------------------------------------------------------------------------------------
def test_zero_star_takes_the_nearest_multiple_and_rests_first():
    first, *rest = watched("sd3", CFGZeroStar(4.0))
    assert torch.equal(first[0].value, torch.zeros_like(first[0].value))
    for p, pc, pu, _ in rest:
        scale = cfg_zero_star_scale(pc.value.flatten(1), pu.value.flatten(1))[:, :, None, None]
        close(p.value, scale * pu.value + 4.0 * (pc.value - scale * pu.value))


def test_zero_star_asks_nothing_while_it_rests_and_rounds_its_share():
    for share, steps, rests in ((0.04, 50, 2), (0.04, 28, 1), (0.04, 10, 1), (0.0, 10, 0)):
        nfe = sample(**settings("sd3", guidance=CFGZeroStar(4.0, share), steps=steps)).nfe.tolist()
        assert nfe == [2 * (steps - rests)] * 2


def test_velocity_of_a_variance_preserving_process_is_v_whatever_its_clock():
    seen = {}
    for name in ("formula", "direction"):
        law = GaussianMixture(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), VP(), kind=V)
        p = law(torch.ones(3, 6), 0.4)
        row = V.row(law.process, Coef(0.4)) if name == "direction" else (*law.process.slope(Coef(0.4)), Coef(0.0))
        seen[name] = p.combined(*row[:2])
    ratio = seen["formula"] / seen["direction"]
    close(ratio, ratio.mean().expand_as(ratio))
    assert sample(**settings("unet", guidance=CFGZeroStar(4.0))).x.isfinite().all()


# APG ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", KINDS)
def test_apg_is_that_of_diffusers_in_x0(name):
    buffer = MomentumBuffer(-0.5)
    for p, pc, pu, _ in watched(name, APG(6.0, eta=0.3, radius=4.0, momentum=-0.5)):
        theirs = normalized_guidance(pc.x0, pu.x0, 5.0, buffer, 0.3, 4.0, use_original_formulation=True)
        close(p.x0, theirs, 1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_apg_without_its_parts_is_cfg(name):
    ours = sample(**settings(name, guidance=APG(4.0, eta=1.0, radius=math.inf, momentum=0.0))).x
    close(ours, sample(**settings(name, guidance=CFG(4.0))).x, 1e-4)


# weaker networks ------------------------------------------------------------------------------------------------------
def test_autoguidance_leads_away_from_any_weaker_network():
    strong, weak = fixture("unet"), fixture("unet-v")
    x, t, cond = states("unet", 2), 0.5, conditions("unet", 2)
    p, q = strong(x, t, cond), weak(x, t, cond)
    close(strong.guided(Autoguidance(weak, 2.5))(x, t, cond).eps, q.eps + 2.5 * (p.eps - q.eps))
    # one of another process stands at the same noise, at another scale
    flow = fixture("sd3")
    alone = GaussianMixture(x.double(), Flow(), kind=X0)
    found = strong.guided(Autoguidance(alone, 2.0))(x, t, cond)
    close(found.eps, 2.0 * p.eps - alone.under(strong.process)(x, t).eps)
    assert isinstance(flow.process, Flow)


def test_autoguidance_beside_cfg_and_by_another_prompt():
    net, x, t, cond = fixture("unet"), states("unet", 2), 0.5, conditions("unet", 2)
    pc, pu = net(x, t, cond), net(x, t, cond.branch("null"))
    both = net.guided(Autoguidance(Branch(path="null"), 2.0) | CFG(3.0))(x, t, cond)
    close(both.value, pu.value + 3.0 * (pc.value - pu.value) + (pc.value - pu.value))
    run = sample(**settings("unet", guidance=Autoguidance(IdentityAttention(), 2.0) | CFG(3.0)))
    assert run.nfe.tolist() == [3 * STEPS] * 2
    with pytest.raises(BadInput, match="Autoguidance"):
        Autoguidance("worse")


@pytest.mark.parametrize("name", ["unet", "unet-class", "sd3", "flux", "pixart", "dit"])
@pytest.mark.parametrize(("guidance", "patch"), [(PAG, IdentityAttention), (SEG, BlurredQueries)])
@torch.no_grad()
def test_perturbed_attention_beside_cfg(name, guidance, patch):
    net, x, t, cond = fixture(name), states(name, 2), 0.5, conditions(name, 2)
    pc, pu = net(x, t, cond), net(x, t, cond.branch("null"))
    weak = net.with_(patch())(x, t, cond)
    found = net.guided(guidance(3.0) | CFG(5.0))(x, t, cond).value
    close(found, pu.value + 5.0 * (pc.value - pu.value) + 3.0 * (pc.value - weak.value))
    assert not torch.equal(weak.value, pc.value)


def attention(name, patch, layers):
    """(q, k, v, output) of the attention product at the first site of a patched call."""
    seen = []

    @dataclass(frozen=True)
    class Look(IdentityAttention):
        def probs(self, call, p):
            seen.append((call.site, call.span("image"), p))
            return p

    net = fixture(name)
    net.with_(Look(layers), patch)(states(name, 2), 0.5, conditions(name, 2))
    net.with_(patch, Look(layers))(states(name, 2), 0.5, conditions(name, 2))
    after, before = seen[0], seen[len(seen) // 2]
    return before, after


@torch.no_grad()
def test_identity_attention_looks_at_itself_alone():
    _, image, p = attention("unet", IdentityAttention((0.0, 1.0)), (0.0, 1.0))[0]
    assert image == slice(None) and torch.equal(p, torch.eye(p.shape[-1]).expand_as(p))


@pytest.mark.parametrize("name", ["sd3", "flux"])
@torch.no_grad()
def test_joint_attention_keeps_the_text(name):
    patched, plain = attention(name, IdentityAttention((0.0, 1.0)), (0.0, 1.0))
    site, image, p = patched
    assert site.role == "joint" and p.shape[-1] > p[..., image].shape[-1]
    own = p[:, :, image, image]
    assert torch.equal(own, own * torch.eye(own.shape[-1]))
    close(p.sum(-1), torch.ones_like(p.sum(-1)))
    text = slice(None, image.start) if image.start else slice(image.stop, None)
    assert torch.equal(p[:, :, text], plain[2][:, :, text])
    ratio = p[:, :, image, text] / plain[2][:, :, image, text]  # what is left is normalised again, row by row
    close(ratio, ratio[..., :1].expand_as(ratio), 1e-4)


@torch.no_grad()
def test_an_infinite_blur_gives_all_tokens_one_query():
    patched = attention("unet", BlurredQueries(math.inf, (0.0, 1.0)), (0.0, 1.0))[1][2]
    close(patched, patched[:, :, :1].expand_as(patched))
    _, image, joint = attention("sd3", BlurredQueries(math.inf, (0.0, 1.0)), (0.0, 1.0))[1]
    close(joint[:, :, image], joint[:, :, image][:, :, :1].expand_as(joint[:, :, image]))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_the_blur_is_a_gaussian_filter_with_reflection(sigma):
    v = torch.randn(1, 1, 15, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, :] * (kernel / kernel.sum())[:, None]
    theirs = F.conv2d(F.pad(v, [radius] * 4, mode="reflect"), kernel[None, None])
    close(torch.einsum("ij,bcjk,lk->bcil", _filter(15, sigma), v, _filter(13, sigma)), theirs, 1e-12)
    for n in (1, 2, 5):  # also where the filter is wider than the picture
        close(_filter(n, sigma).sum(1), torch.ones(n, dtype=torch.float64), 1e-12)


def test_tokens_are_laid_out_as_the_picture_is():
    assert _grid(64, 64, 64) == (8, 8) and _grid(32, 64, 32) == (8, 4) and _grid(15, 9, 5) == (5, 3)


def test_layers_are_shares_of_the_network():
    net = fixture("dit")
    middle, every = (IdentityAttention(layers).sites(net.sites) for layers in (None, (0.0, 1.0)))
    assert len(middle) < len(every) == 2
    assert [s.stage for s in IdentityAttention().sites(fixture("unet").sites)] == ["mid"]
    with pytest.raises(BadInput, match="shares"):
        PAG(3.0, (0.6, 0.4))
    with pytest.raises(Refused, match="widen"):
        sample(**settings("dit", guidance=PAG(3.0, (0.9, 0.95))))


# all ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", KINDS)
def test_negative_prompts_take_the_place_of_the_null_condition(name):
    cond = conditions(name, 2)
    other = replace(cond, alt={"null": cond[torch.tensor([1, 0])]})
    for guidance in (CFGPlusPlus(0.6), CFGZeroStar(4.0), APG(4.0), GuidanceRescale() | CFG(4.0)):
        one, two = (sample(**settings(name, cond=c, guidance=guidance)).x for c in (cond, other))
        assert (one - two).abs().max() > 1e-3
