"""What is to stay is put back, and what it needs for that is asked for by name."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.editing import MaskedBlend
from suffuse.processes import Absorbing
from suffuse.samplers import DDIM, Ancestral
from suffuse.testing.analytic import KnownLaw
from suffuse.testing.fixtures import conditions, fixture, states


def run(**known):
    cond = conditions("unet", 2)
    cond = cond.with_alt(known=Cond(known)) if known else cond
    return sample(fixture("unet"), states("unet", 2), sampler=DDIM(), steps=3, cond=cond, hooks=[MaskedBlend()],
                  save=lambda run: run)  # fmt: skip


def test_the_kept_part_is_the_source():
    x0, noise = states("unet", 4)[2:], states("unet", 2)
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1.0
    result = run(x0=x0, noise=noise, mask=mask)
    assert torch.equal(result.x[..., 4:], x0[..., 4:])
    assert (result.x[..., :4] - x0[..., :4]).abs().max() > 0.1
    last, process = result.saved[2], fixture("unet").process
    kept = process.alpha(last.at.t) * x0 + process.sigma(last.at.t) * noise
    assert torch.equal(last.state.x[..., 4:], kept[..., 4:])


def test_what_is_missing_is_named():
    with pytest.raises(BadInput, match=r"cond.alt\['known'\] has no 'x0'; give cond.with_alt\(known="):
        run()
    with pytest.raises(BadInput, match=r"cond.alt\['known'\] has no 'mask'"):
        run(x0=states("unet", 2), noise=states("unet", 2))


def test_discrete_data_is_refused():
    words = KnownLaw(torch.tensor([[0, 1], [1, 0]]), Absorbing(3))
    with pytest.raises(Refused, match="MaskedBlend.*Absorbing is categorical"):
        sample(words, (2, 2), sampler=Ancestral(), steps=2, hooks=[MaskedBlend()])
