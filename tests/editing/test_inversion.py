"""Codes: found by DDIM in reverse, by noise, on the path itself; kept in files; refused elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMInverseScheduler

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Damaged, Refused
from suffuse.core.grid import Grid
from suffuse.core.plugin import Setting
from suffuse.core.prediction import FLOW
from suffuse.editing import Code, DDIMInversion, DirectInversion, MasaCtrl, Plan, SDEdit, decode
from suffuse.editing.ddim_inversion import ReverseDDIM, pivots
from suffuse.guidance.cfg import CFG
from suffuse.processes import VP, Flow
from suffuse.samplers.ancestral import DDIM
from suffuse.testing.analytic import GaussianMixture

from .editing_toys import STEPS, close, net, pictures, plan, prompts

NAMES = ("unet", "unet-v", "sd3", "flux", "pixart")


def test_one_step_is_that_of_diffusers():
    """diffusers' scheduler asks at the later timestep as well; its final_alpha is that of timestep 0 here."""
    scheduler = DDIMInverseScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    denoiser = net("unet")
    cond = prompts("unet")[0]
    x = pictures("unet")
    steps = scheduler.timesteps.tolist()
    for low, high in zip(steps[1:], steps[2:], strict=False):
        times = torch.tensor([(low + 1) / 1000, (high + 1) / 1000], dtype=torch.float64)
        ours = sample(denoiser, x, sampler=ReverseDDIM(), grid=Grid(times), cond=cond).x
        eps = denoiser(x, float(times[1]), cond).eps
        theirs = scheduler.step(eps, high, x).prev_sample
        assert close(ours, theirs, 1e-4)


@pytest.mark.parametrize("process", [VP(), Flow()])
def test_there_and_back_is_first_order(process):
    mixture = GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, 1.5]]), process, std=0.4, kind=FLOW)
    x0 = torch.tensor([[-0.9, 0.3], [1.2, 1.4], [0.1, 0.8]], dtype=torch.float64)

    def error(steps: int) -> float:
        times = Grid(torch.linspace(1 if process == VP() else 0.98, 0, steps + 1, dtype=torch.float64))
        path = pivots(Plan(mixture, times), x0, Cond())
        back = sample(mixture, path[:, 0], sampler=DDIM(), grid=times).x
        return float((back - x0).abs().max())

    assert error(320) < 0.6 * error(160) < 0.36 * error(80)


@pytest.mark.parametrize("name", NAMES)
def test_the_source_branch_is_the_path_at_every_step(name):
    a, b = prompts(name)
    x0, p = pictures(name), plan(name, CFG(7.5))
    code = DirectInversion().encode(p, x0, a)
    states = []
    out = decode(p, code, a, b, (), progress=lambda at: None)
    decode_states(p, code, a, b, states)
    for i, state in enumerate(states):
        assert close(state[:2], code.extras["pivots"][:, i])
    assert close(out.source, x0) and (out.source - x0).abs().max() < 1e-5
    assert not close(out.target, x0, 1e-2)


def decode_states(p: Plan, code: Code, a: Cond, b: Cond, into: list) -> None:
    from suffuse.core.engine import Start
    from suffuse.editing.branches import branches

    sample(
        p.denoiser, Start.exactly(torch.cat([code.x, code.x]), code.t), sampler=p.sampler, grid=p.grid,
        cond=code.beside(branches(a, b, len(code.x))), guidance=p.guidance, hooks=code.inverter.hooks,
        save=lambda run: into.append(run.state.x),
    )  # fmt: skip


def test_without_editors_the_target_is_what_it_would_be_alone():
    a, b = prompts("unet")
    x0, p = pictures("unet"), plan("unet")
    direct = decode(p, DirectInversion().encode(p, x0, a), a, b)
    alone = sample(
        p.denoiser, DDIMInversion().encode(p, x0, a).x, sampler=DDIM(), grid=p.grid, cond=b, guidance=p.guidance
    )
    assert close(direct.target, alone.x)


def test_scale_zero_is_plain_ddim_inversion():
    a, b = prompts("unet")
    x0, p = pictures("unet"), plan("unet")
    plain = decode(p, DDIMInversion().encode(p, x0, a), a, b, [MasaCtrl(0.0)])
    zero = decode(p, DirectInversion(scale=0.0).encode(p, x0, a), a, b, [MasaCtrl(0.0)])
    assert torch.equal(plain.target, zero.target) and torch.equal(plain.source, zero.source)


def test_the_target_reads_the_corrected_source():
    a, b = prompts("unet")
    x0, p = pictures("unet"), plan("unet", CFG(7.5))
    found = [
        decode(p, i.encode(p, x0, a), a, b, [MasaCtrl(0.0, 0.0)]).target for i in (DDIMInversion(), DirectInversion())
    ]
    assert not close(found[0], found[1], 1e-3)


def test_a_share_of_the_offset_leaves_a_share_of_the_error():
    a, b = prompts("unet")
    x0, p = pictures("unet"), plan("unet", CFG(7.5))
    errors = [
        float((decode(p, DirectInversion(scale=s).encode(p, x0, a), a, b).source - x0).abs().mean())
        for s in (0.0, 0.4, 0.8, 1.0)
    ]
    assert errors == sorted(errors, reverse=True)


def test_every_second_step_is_exact_there():
    a, b = prompts("unet")
    p, states = plan("unet", CFG(7.5)), []
    code = DirectInversion(every=2).encode(p, pictures("unet"), a)
    decode_states(p, code, a, b, states)
    exact = [close(states[i + 1][:2], code.extras["pivots"][:, i + 1]) for i in range(STEPS)]
    assert exact == [i % 2 == 0 for i in range(STEPS)]


def test_the_offset_on_the_target_too():
    """One step: the target is moved by what the source is."""
    a, b = prompts("unet")
    p = plan("unet", CFG(7.5), steps=1)
    plain, own, both = (
        decode(p, i.encode(p, pictures("unet"), a), a, b)
        for i in (DDIMInversion(), DirectInversion(), DirectInversion(target=True))
    )
    assert torch.equal(own.target, plain.target)
    assert close(both.target - plain.target, own.source - plain.source)


@pytest.mark.parametrize("inverter", [DirectInversion(strength=0.6), DDIMInversion(strength=0.6), SDEdit(0.6)])
def test_a_part_of_the_steps(inverter):
    a, b = prompts("unet")
    p = plan("unet")
    code = inverter.encode(p, pictures("unet"), a)
    assert code.t == pytest.approx(0.6)
    out = decode(p, code, a, b)
    assert out.nfe.tolist() == [4 * 3] * 2
    assert close(out.source, pictures("unet")) == isinstance(inverter, DirectInversion)


def test_one_code_serves_all_scales():
    a, b = prompts("unet")
    code = DirectInversion().encode(plan("unet", CFG(3.0)), pictures("unet"), a)
    assert close(decode(plan("unet", CFG(9.0)), code, a, b).source, pictures("unet"))


def test_sdedit_noises_source_and_target_alike():
    a, _ = prompts("unet")
    p = plan("unet")
    code = SDEdit(0.5).encode(replace(p, grid=p.grid), pictures("unet"), a)
    out = decode(p, code, a, a)
    assert torch.equal(out.source, out.target)
    again = SDEdit(0.5).encode(p, pictures("unet"), a)
    assert torch.equal(code.x, again.x)


def test_a_code_is_kept_in_a_file(tmp_path):
    a, b = prompts("unet")
    p = plan("unet")
    code = DirectInversion(w=1.5, strength=0.8).encode(p, pictures("unet"), a)
    back = Code.load(code.save(tmp_path / "code.safetensors"))
    assert back.inverter == code.inverter and back.made_for == code.made_for and back.t == code.t
    assert torch.equal(decode(p, back, a, b).target, decode(p, code, a, b).target)
    assert torch.equal(back[1:].extras["pivots"], code.extras["pivots"][1:])


def test_a_code_is_refused_elsewhere():
    a, b = prompts("unet")
    code = DirectInversion().encode(plan("unet"), pictures("unet"), a)
    with pytest.raises(Refused, match="fitted for times 6 values"):
        decode(plan("unet", steps=7), code, a, b)
    with pytest.raises(Refused, match="fitted for model"):
        decode(replace(plan("unet"), setting=Setting(model="another")), code, a, b)


def test_what_is_no_code_is_damaged(tmp_path):
    path = tmp_path / "code.safetensors"
    with pytest.raises(Damaged, match="not a code"):
        Code.load(path)
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(Damaged, match="not a code"):
        Code.load(path)


def test_numbers_out_of_range():
    with pytest.raises(BadInput, match="scale lies in"):
        DirectInversion(scale=1.5)
    with pytest.raises(BadInput, match="give a strength above 0"):
        SDEdit(0.05).encode(plan("unet"), pictures("unet"), prompts("unet")[0])
    with pytest.raises(BadInput, match="give a strength above 0"):
        DDIMInversion(strength=1.2).encode(plan("unet"), pictures("unet"), prompts("unet")[0])
