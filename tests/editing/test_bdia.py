"""Inversion by BDIA: the source branch is the picture, whatever the guidance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suffuse.core.errors import Refused
from suffuse.editing import BDIAInversion, Code, DDIMInversion, MasaCtrl, decode
from suffuse.guidance.cfg import CFG
from suffuse.samplers import BDIA, Heun

from .editing_toys import close, pictures, plan, prompts


def exact(name, guidance=CFG(3.0), sampler=BDIA()):
    return replace(plan(name, guidance), sampler=sampler)


@pytest.mark.parametrize("name", ["unet", "unet-v", "sd3", "flux", "pixart"])
@pytest.mark.parametrize("guidance", [CFG(3.0), CFG(7.5).during(0.0, 0.5)])
def test_the_picture_comes_back(name, guidance):
    a, b = prompts(name)
    p = exact(name, guidance)
    out = decode(p, BDIAInversion().encode(p, pictures(name), a), a, b, [MasaCtrl(0.0)])
    assert close(out.source, pictures(name), 1e-4)
    assert not close(out.target, pictures(name), 1e-2)


@pytest.mark.parametrize("sampler", [BDIA(0.92), BDIA(1.0, Heun())])
def test_other_forms(sampler):
    a, b = prompts("unet")
    p = exact("unet", sampler=sampler)
    out = decode(p, BDIAInversion(0.6).encode(p, pictures("unet"), a), a, b)
    assert close(out.source, pictures("unet"), 1e-4)


def test_decoding_costs_what_plain_decoding_costs():
    a, b = prompts("unet")
    p = exact("unet", CFG(1.0))
    code = BDIAInversion().encode(p, pictures("unet"), a)
    spent = decode(p, code, a, b).nfe
    assert spent.tolist() == decode(p, DDIMInversion().encode(p, pictures("unet"), a), a, b).nfe.tolist()


def test_the_code_is_the_last_two_states(tmp_path):
    a, b = prompts("unet")
    p = exact("unet")
    code = BDIAInversion().encode(p, pictures("unet"), a)
    assert set(code.extras) == {"after"} and code.extras["after"].dtype == torch.float32
    back = Code.load(code.save(tmp_path / "code.safetensors"))
    assert torch.equal(decode(p, back, a, b).target, decode(p, code, a, b).target)


def test_what_cannot_be_undone_is_refused():
    a, b = prompts("unet")
    with pytest.raises(Refused, match="give sampler=BDIA"):
        BDIAInversion().encode(plan("unet"), pictures("unet"), a)
    with pytest.raises(Refused, match="no inverse; use gamma=1"):
        BDIAInversion().encode(exact("unet", sampler=BDIA(0.0)), pictures("unet"), a)
    code = BDIAInversion().encode(exact("unet"), pictures("unet"), a)
    with pytest.raises(Refused, match="fitted for sampler"):
        decode(exact("unet", sampler=BDIA(0.95)), code, a, b)
