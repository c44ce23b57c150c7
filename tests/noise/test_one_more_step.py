"""One More Step: the formula, its refusals, its file, and a start that can be learned exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suffuse import load_method, save_method
from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import Refused
from suffuse.core.noise import Keyed
from suffuse.core.training import Batch
from suffuse.core.value import Coef
from suffuse.noise import OneMoreStep
from suffuse.samplers import DDIM, Leading, Trailing
from suffuse.testing import fixtures

SHAPE = (4, 8, 8)


def source(step):
    """Two texts, each with one picture of its own."""
    text = fixtures.conditions("unet", 2)["text"]
    x0 = torch.stack([torch.full(SHAPE, -1.0), torch.full(SHAPE, 1.0)])
    null = Cond({"text": torch.zeros_like(text)})
    return Batch({"x0": x0}, Cond({"text": text}, {"null": null}), torch.arange(2))


@pytest.fixture(scope="module")
def fitted():
    return OneMoreStep.fit(source, fixtures.fixture("unet").process, steps=60, widths=(16, 16), dropout=0.0)


def test_it_attends_below_its_first_level_only(fitted):
    places = {name.split("attentions")[0] for name, _ in fitted.network.unet.named_modules() if "attentions" in name}
    assert places == {"down_blocks.1.", "mid_block.", "up_blocks.0."}


def test_it_learns_the_mean_of_what_a_text_shows(fitted):
    z = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    v = fitted.network(z, source(0).cond["text"])
    assert (v[0] - 1.0).abs().mean() < 0.3 and (v[1] + 1.0).abs().mean() < 0.3


def test_the_start_is_made_of_it(fitted):
    net, x, cond = fixtures.fixture("unet"), fixtures.states("unet", 2), fixtures.conditions("unet", 2)
    run = dict(sampler=DDIM(), steps=2, spacing=Trailing(), cond=cond, noise=3)
    hook = replace(fitted, made_for=replace(fitted.made_for, shape=()))
    with torch.no_grad():
        v = hook.network(x, cond["text"])
    end, fresh = Coef(1.0), Keyed(3).normal(x, [0, 1], "step/0/one-more-step")
    start = net.process.alpha(end) * -v + net.process.sigma(end) * fresh
    torch.testing.assert_close(sample(net, x, hooks=[hook], **run).x, sample(net, start, **run).x)
    with pytest.raises(Refused, match="Trailing"):
        sample(net, x, hooks=[hook], **{**run, "spacing": Leading()})
    flow = replace(hook, made_for=replace(hook.made_for, process=str(fixtures.fixture("sd3").process)))
    with pytest.raises(Refused, match="pure noise"):
        sample(fixtures.fixture("sd3"), fixtures.states("sd3", 2), sampler=DDIM(), steps=2, hooks=[flow],
               cond=fixtures.conditions("sd3", 2))  # fmt: skip


def test_its_file_and_where_it_belongs(fitted, tmp_path):
    back = load_method(save_method(fitted, tmp_path / "start.safetensors"))
    z, text = torch.randn(1, *SHAPE), source(0).cond["text"][:1]
    assert torch.equal(back.network(z, text), fitted.network(z, text)) and back.made_for == fitted.made_for
    with pytest.raises(Refused, match="fitted for process"):
        sample(fixtures.fixture("sd3"), fixtures.states("sd3", 1), sampler=DDIM(), steps=1, hooks=[fitted],
               cond=fixtures.conditions("sd3", 1))  # fmt: skip
