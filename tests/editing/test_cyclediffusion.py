"""CycleDiffusion: noises of the sampler's own posterior, exact decoding, reuse in another network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import grid_of
from suffuse.core.errors import Refused
from suffuse.core.plugin import Setting
from suffuse.editing import Code, CycleDiffusion, MasaCtrl, Plan, decode
from suffuse.guidance.cfg import CFG
from suffuse.processes import VP, Flow
from suffuse.samplers import DDIM, DDPM, DPMSolverPP, Euler, EulerAncestral
from suffuse.testing.analytic import Gaussian

from .editing_toys import STEPS, close, pictures, plan, prompts

SAMPLERS = [DDIM(eta=0.1), DDIM(), DDPM(), EulerAncestral(), DPMSolverPP(sde=True)]


def drawing(name, sampler=DDIM(eta=0.1), w=3.0):
    return replace(plan(name, CFG(w)), sampler=sampler)


@pytest.mark.parametrize("name", ["unet", "unet-v", "sd3", "flux"])
def test_the_picture_comes_back(name):
    a, b = prompts(name)
    p = drawing(name)
    out = decode(p, CycleDiffusion(w=3.0).encode(p, pictures(name), a), a, b, [MasaCtrl(0.0)])
    assert close(out.source, pictures(name)) and not close(out.target, pictures(name), 1e-2)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_with_every_sampler(sampler, strength):
    a, b = prompts("unet")
    p = drawing("unet", sampler)
    out = decode(p, CycleDiffusion(w=3.0, strength=strength).encode(p, pictures("unet"), a), a, b)
    assert close(out.source, pictures("unet"))


def test_the_noises_are_those_of_the_samplers_law():
    """Of data whose law the network knows, sigma_t eps_t has the standard deviation of the step."""
    process = VP()
    known = Gaussian(torch.zeros(1, 32, 32, dtype=torch.float64), process, std=0.5)
    x0 = 0.5 * torch.randn(8, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = Plan(known, grid_of(process, DDPM(), None, 60), sampler=DDPM(), guidance=CFG(1.0))
    code = CycleDiffusion().encode(p, x0, Cond({}, {"null": Cond()}))
    for i in (10, 30, 50):
        std = process.reverse_std(p.grid.node(i), p.grid.node(i + 1)).item()
        found = code.extras["noises"][:, i]
        assert abs(found.mean()) < 0.05 * std
        assert found.std() == pytest.approx(std, rel=0.08)


@pytest.mark.parametrize("process", [VP(), Flow()])
def test_two_domains_share_their_noises(process):
    """A picture of one mode, decoded by the network of another, keeps what is its own."""
    here, there = (Gaussian(torch.full((1, 8, 8), m, dtype=torch.float64), process, std=0.3) for m in (-2.0, 2.0))
    x0, cond = here.data(4), Cond({}, {"null": Cond()})
    plans = [Plan(d, grid_of(process, DDPM(), None, 100), sampler=DDPM(), guidance=CFG(1.0)) for d in (here, there)]
    code = CycleDiffusion(strength=0.95).encode(plans[0], x0, cond)
    torch.testing.assert_close(decode(plans[0], code, cond, cond).source, x0)
    moved = decode(plans[1], code, cond, cond).source
    residuals = torch.stack([(x0 + 2.0).flatten(), (moved - 2.0).flatten()])
    assert abs(moved.mean() - 2.0) < 0.2
    assert torch.corrcoef(residuals)[0, 1] > 0.9


def test_source_and_target_have_the_same_noises():
    a, _ = prompts("unet")
    p = drawing("unet", DDPM())
    out = decode(p, CycleDiffusion().encode(p, pictures("unet"), a), a, a)
    assert torch.equal(out.source, out.target)


def test_the_seed_draws_another_code_of_the_same_picture():
    a, b = prompts("unet")
    p = drawing("unet")
    codes = [CycleDiffusion(w=3.0).encode(replace(p, noise=p.noise.fold(k)), pictures("unet"), a) for k in (0, 1)]
    outs = [decode(p, code, a, b) for code in codes]
    assert close(outs[0].source, outs[1].source) and not close(outs[0].target, outs[1].target, 1e-2)


def test_a_code_goes_to_another_network_of_its_schedule_only(tmp_path):
    a, b = prompts("unet")
    p = replace(drawing("unet"), setting=Setting("one", shape=(4, 8, 8)))
    code = CycleDiffusion().encode(p, pictures("unet"), a)
    assert code.extras["noises"].shape[:2] == (2, STEPS)
    back = Code.load(code.save(tmp_path / "code.safetensors"))
    other = replace(p, setting=Setting("another", shape=(4, 8, 8)))
    assert torch.equal(decode(other, back, a, b).target, decode(p, code, a, b).target)
    with pytest.raises(Refused, match="fitted for shape"):
        decode(replace(p, setting=Setting("another", shape=(4, 16, 16))), code, a, b)
    with pytest.raises(Refused, match="fitted for sampler"):
        decode(replace(p, sampler=DDPM()), code, a, b)


def test_churn_is_refused():
    with pytest.raises(Refused, match="adds noise before it asks"):
        CycleDiffusion().encode(drawing("unet", Euler(churn=5.0)), pictures("unet"), prompts("unet")[0])
