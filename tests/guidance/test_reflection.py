"""W2SD: where it reflects, what it costs, what is said of it in an expression."""

from __future__ import annotations

import pytest
import torch

import suffuse
from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.expression import parse, unparse
from suffuse.core.prediction import X0
from suffuse.core.reflection import Branch
from suffuse.guidance import CFG, W2SD
from suffuse.processes import VP, Flow
from suffuse.samplers import DDIM, DEIS, Ancestral, Heun
from suffuse.testing import fixtures, pipelines
from suffuse.testing.analytic import GaussianMixture
from suffuse.testing.checks.subject import DISCRETE, denoiser, states


def law(weight, process=None):
    means = torch.tensor([[-1.0], [1.0]])
    return GaussianMixture(means, process or VP(), std=0.1, weights=torch.tensor([weight, 1 - weight]), kind=X0)


START = torch.randn(400, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def share(**run):
    return (sample(law(0.8), START, **run).x < 0).double().mean().item()


@pytest.mark.parametrize("process", [VP(), Flow()])
@pytest.mark.parametrize("sampler", [DDIM(), DEIS(2)])
def test_a_mixture_comes_nearer_to_what_strong_has_more_of_than_weak(process, sampler):
    hook = W2SD(strong=law(0.8, process), weak=law(0.95, process))
    run = dict(sampler=sampler, steps=30)
    plain = (sample(law(0.8, process), START, **run).x < 0).double().mean().item()
    shifted = (sample(law(0.8, process), START, hooks=[hook], **run).x < 0).double().mean().item()
    away = W2SD(strong=law(0.95, process), weak=law(0.8, process))
    other = (sample(law(0.8, process), START, hooks=[away], **run).x < 0).double().mean().item()
    assert 0.5 < shifted < plain - 0.05
    assert other > plain + 0.03


def test_all_but_the_last_step_are_reflected_and_counted():
    run = dict(sampler=DDIM(), steps=5, noise=3)

    def cost(hook):
        return sample(law(0.8), START[:2], hooks=[hook], **run).nfe.tolist()

    assert cost(W2SD(Branch(), Branch())) == [3 * 4 + 1] * 2
    assert cost(W2SD(Branch(), Branch()).during(0.0, 0.4)) == [3 * 2 + 3] * 2
    assert cost(W2SD(Branch(), Branch(), strength=0.0)) == [5, 5]


def test_guided_settings_cost_what_they_ask():
    net, x, cond = fixtures.fixture("unet"), fixtures.states("unet", 2), fixtures.conditions("unet", 2)
    out = sample(net, x, sampler=DDIM(), steps=3, cond=cond, guidance=CFG(3), hooks=[W2SD()])
    assert out.nfe.tolist() == [(2 + 1 + 2) * 2 + 2] * 2


def test_strength_goes_along_the_shift():
    one = dict(sampler=DDIM(), steps=2, start=0.9)
    x = [sample(law(0.8), START[:5], hooks=[W2SD(law(0.8), law(0.95), strength=s)], **one).x for s in (0.0, 1e-4, 2e-4)]
    torch.testing.assert_close(x[2] - x[0], 2 * (x[1] - x[0]), rtol=1e-3, atol=1e-9)
    assert torch.equal(x[0], sample(law(0.8), START[:5], **one).x)


def test_a_sampler_of_several_evaluations_is_reflected_too():
    assert share(sampler=Heun(), steps=20, hooks=[W2SD(law(0.8), law(0.95))]) < share(sampler=Heun(), steps=20) - 0.05


def test_settings_are_said_in_an_expression():
    said = "W2SD(strong=CFG(5.5), weak=Branch(guidance=CFG(1), patches=(DeepCache(),), path='rich', prompt='a circle'))"
    hook = parse(said)
    assert parse(unparse(hook)) == hook
    assert hook.prompts() == {"rich": "a circle"}
    assert parse("during(W2SD(), 0, 0.5)").inner == W2SD()


def test_a_model_encodes_the_prompts_of_its_settings(tmp_path):
    pipelines.stable_diffusion().save_pretrained(tmp_path)
    model = suffuse.load(tmp_path)
    rich = Branch(CFG(3.0), path="rich", prompt="a large red circle")
    how = dict(steps=2, guidance=3.0)
    hooked = model.generate("a red circle", hooks=[W2SD(rich, CFG(1))], **how)
    plain = model.generate("a red circle", hooks=[W2SD(CFG(3.0), CFG(1))], **how)
    assert float((hooked.latents - plain.latents).abs().max()) > 1e-3
    assert hooked.nfe.tolist() == [2 + 1 + 2 + 2]


def test_what_cannot_be_is_refused():
    with pytest.raises(BadInput, match="strength"):
        W2SD(strength=float("nan"))
    with pytest.raises(BadInput, match="give a guidance"):
        W2SD(strong=DDIM())
    with pytest.raises(Refused, match="Gaussian"):
        sample(denoiser(DISCRETE), states(DISCRETE, 2), sampler=Ancestral(), steps=3, hooks=[W2SD(Branch(), Branch())])
    with pytest.raises(BadInput, match="rich"):
        sample(law(0.8), START[:2], sampler=DDIM(), steps=2, cond=Cond(), hooks=[W2SD(Branch(path="rich"), Branch())])
