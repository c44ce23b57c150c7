"""Gradient guidance: exact on Gaussian data, in both of the paper's forms, and per sample."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import place_of, sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.grid import Grid
from suffuse.core.noise import Keyed
from suffuse.core.prediction import EPS, FLOW, X0, V
from suffuse.core.sampler import Mover
from suffuse.core.step import RunContext, Step
from suffuse.core.value import Coef
from suffuse.guidance import CFG, ClassifierGuidance, ClassScore, Clean, GradientGuidance, MapScore, MaskScore
from suffuse.guidance.gradient import gradient, mean_moved, score_moved
from suffuse.networks.adm import ADMClassifier
from suffuse.processes.continuous import VP, Flow
from suffuse.processes.learned_variance import LearnedVariance
from suffuse.processes.tables import Table
from suffuse.samplers import DDIM, DDPM, DPMSolverPP, EulerAncestral, Heun
from suffuse.testing.analytic import Gaussian
from suffuse.testing.fixtures import conditions, fixture, states

KINDS = [(VP(), EPS), (VP(), V), (Flow(), FLOW), (Flow(), X0)]


class Observed:
    """log p(y | x_t) for y = x0[0] + n, n ~ N(0, 1/4), x0 ~ N(0, I), seen y = 1.5: exact at every time."""

    def __init__(self, process, clean=False):
        self.process, self.clean = process, clean

    def __call__(self, x, t, cond):
        a, s = self.process.alpha(t), self.process.sigma(t)
        power = a * a + s * s
        mean = x[:, 0] if self.clean else a / power * x[:, 0]
        return -0.5 / (s * s / power + 0.25) * (mean - 1.5) ** 2


@pytest.mark.parametrize("process, kind", KINDS)
@pytest.mark.parametrize("look_ahead", [False, True])
def test_the_conditional_law_is_drawn(process, kind, look_ahead):
    known = Gaussian(torch.zeros(2, dtype=torch.float64), process, std=1.0, kind=kind)
    x = torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    guidance = GradientGuidance(Observed(process, clean=look_ahead), look_ahead=look_ahead)
    found = sample(known, x, sampler=DDIM(), steps=100, guidance=guidance).x
    # N(1.2, 0.2) for the first entry, N(0, 1) for the second; the paths of 100 steps are short of it by a percent
    assert abs(found[:, 0].mean() - 1.2) < 0.03 and abs(found[:, 0].std() - 0.2**0.5) < 0.03
    assert abs(found[:, 1].mean()) < 0.05 and abs(found[:, 1].std() - 1.0) < 0.05


@pytest.mark.parametrize("process, kind", KINDS)
def test_looking_ahead_asks_once_and_agrees_with_the_state(process, kind):
    known = Gaussian(torch.zeros(2, dtype=torch.float64), process, std=1.0, kind=kind)
    x = torch.randn(3, 2, dtype=torch.float64)
    how = {"sampler": DDIM(), "steps": 8}
    here = sample(known, x, guidance=GradientGuidance(Observed(process)), **how)
    ahead = sample(known, x, guidance=GradientGuidance(Observed(process, True), look_ahead=True), **how)
    torch.testing.assert_close(here.x, ahead.x, rtol=1e-8, atol=1e-8)
    assert ahead.nfe.tolist() == [8] * 3 and not ahead.x.requires_grad


def step_of(denoiser, sampler, x, t, s):
    grid = Grid(torch.tensor([1.0, 0.0]))
    bound = sampler.bind(place_of(denoiser, grid, sampler, None))
    at = Step(0, 1, Coef(t), Coef(s), grid, denoiser.process, tuple(range(len(x))), RunContext(Keyed(0)))
    return at.but(mover=Mover(bound, x, at.samples, bound.init(x, at)))


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(0.6), EulerAncestral(), DPMSolverPP(2, True)], ids=str)
@pytest.mark.parametrize("kind", [EPS, V])
def test_the_mean_moves_by_the_variance_times_the_gradient(sampler, kind):
    known = Gaussian(torch.ones(2, dtype=torch.float64), VP(), std=0.7, kind=kind)
    x, g = torch.randn(2, 3, 2, dtype=torch.float64)
    t = torch.tensor([0.9, 0.5, 0.3], dtype=torch.float64)
    at, p = step_of(known, sampler, x, t, t - 0.1), known(x, t)
    before, after = at.mover(p, at), at.mover(mean_moved(p, g, at), at)
    torch.testing.assert_close(after.mean, before.mean + (before.std * before.std) * g)
    torch.testing.assert_close(after.std.tensor(3), before.std.tensor(3))


def test_a_learned_variance_is_the_one_that_moves_the_mean():
    process, at_once = LearnedVariance("linear", 1e-4, 0.02), torch.Generator().manual_seed(0)
    x, g = torch.randn(2, 3, 2, 4, 4, generator=at_once)
    p = process.predict(x, Coef(0.5), torch.randn(3, 4, 4, 4, generator=at_once), EPS)

    class Known(Gaussian):
        def forward(self, x, t, cond=None):
            return p

    at = step_of(Known(torch.zeros(2, 4, 4), process), DDPM(), x, 0.5, 0.4)
    before, after = at.mover(p, at), at.mover(mean_moved(p, g, at), at)
    assert before.std.d.std() > 0.01
    torch.testing.assert_close(after.mean, before.mean + (before.std * before.std) * g, rtol=1e-5, atol=1e-5)
    # the noise form gives the same where steps are short and the variance is that of the posterior
    near = step_of(Known(torch.zeros(2, 4, 4), Table()), DDPM(), x, 0.5, 0.4999)
    plain = Table().predict(x, Coef(0.5), p.value, EPS)
    means = [near.mover(moved, near).mean - near.mover(plain, near).mean
             for moved in (mean_moved(plain, g, near), score_moved(plain, g))]  # fmt: skip
    torch.testing.assert_close(*means, rtol=0.02, atol=1e-6)


def test_what_draws_no_noise_has_no_variance():
    known, x = Gaussian(torch.zeros(2), VP()), torch.randn(2, 2)
    guidance = GradientGuidance(Observed(VP()), mean=True)
    for sampler in (DDIM(), Heun()):
        with pytest.raises(Refused):
            sample(known, x, sampler=sampler, steps=2, guidance=guidance)
    sample(known, x, sampler=DDPM(), steps=2, guidance=guidance)


def test_scorers_that_cannot_guide_are_named():
    x = torch.randn(3, 2)
    with pytest.raises(BadInput, match=r"shape \(\) for 3 states"):
        gradient(lambda z: z.sum(), x)
    with pytest.raises(BadInput, match="has no gradient"):
        gradient(lambda z: z.detach().sum(1), x)
    with torch.no_grad():
        torch.testing.assert_close(gradient(lambda z: (z**2).sum(1), x), 2 * x)


def test_a_run_can_be_differentiated():
    known = Gaussian(torch.zeros(2, dtype=torch.float64), VP(), std=1.0)
    x = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    for look_ahead in (False, True):
        guidance = GradientGuidance(Observed(VP(), look_ahead), look_ahead=look_ahead)

        def run(z, guidance=guidance):
            return sample(known, z, sampler=DDIM(), steps=3, guidance=guidance, gradient=True).x

        assert torch.autograd.gradcheck(run, x, atol=1e-4)


def tiny(channels=4):
    torch.manual_seed(0)
    return ADMClassifier(8, 3, channels, 8, (1, 2), 1, (4,), 8, groups=4).eval()


@pytest.mark.parametrize("name", ["unet", "sd3"])
@pytest.mark.parametrize("sampler, mean", [(DDIM(), False), (DDPM(), True), (DPMSolverPP(), False)], ids=str)
def test_a_classifier_raises_its_class_on_any_model(name, sampler, mean):
    classifier, x = tiny(), states(name, 3)
    cond = conditions(name, 3).with_alt(target=Cond({"label": torch.tensor([0, 1, 2])}))
    how = {"sampler": sampler, "steps": 6, "cond": cond}
    score = ClassScore(classifier)

    def chance(guidance):
        return score(sample(fixture(name), x, guidance=guidance, **how).x, Coef(0.0), cond)

    plain, guided = chance(CFG(2.0)), chance(ClassifierGuidance(classifier, 3.0, mean) | CFG(2.0))
    assert (guided > plain).all()
    same = sample(fixture(name), x, guidance=ClassifierGuidance(classifier, 0.0) | CFG(2.0), **how).x
    assert torch.equal(same, sample(fixture(name), x, guidance=CFG(2.0), **how).x)


def test_targets():
    x, t = torch.randn(2, 4, 8, 8), Coef(0.5)
    logits = lambda z: z.flatten(1)[:, :3]  # noqa: E731
    score = ClassScore(Clean(logits))  # type: ignore[arg-type]
    expected = logits(x).log_softmax(1)[[0, 1], [2, 0]]
    labels = Cond({"label": torch.tensor([2, 0])})
    torch.testing.assert_close(score(x, t, labels), expected)
    torch.testing.assert_close(score(x, t, Cond({"label": torch.tensor([1, 1])}, {"target": labels})), expected)
    null = score(x.requires_grad_(True), t, Cond({"label": torch.tensor([3, 0])}))
    assert null[0] == 0 and torch.autograd.grad(null.sum(), x)[0][0].abs().sum() == 0
    with pytest.raises(BadInput, match="target=3"):
        ClassScore(Clean(logits), 3)(x, t, Cond())  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="has no 'label'"):
        score(x, t, Cond())
    maps = Cond(alt={"target": Cond({"map": torch.zeros(2, 4, 8, 8)})})
    torch.testing.assert_close(MapScore(lambda z, t: z, 2.0)(x, t, maps), -(x**2).mean((1, 2, 3)) / 8)
    with pytest.raises(BadInput, match="must agree"):
        MapScore(lambda z, t: z[:, :1])(x, t, maps)
    mask = torch.randint(4, (2, 8, 8))
    expected = x.log_softmax(1).gather(1, mask[:, None])[:, 0].mean((1, 2))
    found = MaskScore(lambda z, t: z)(x, t, Cond(alt={"target": Cond({"mask": mask})}))
    torch.testing.assert_close(found, expected)
