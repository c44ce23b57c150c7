"""SuperDiff: densities that are followed are the true ones, and operators weigh by them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.grid import Grid
from suffuse.core.hook import Hook
from suffuse.core.noise import Keyed, Stream
from suffuse.core.prediction import EPS, FLOW, X0
from suffuse.core.value import Coef
from suffuse.guidance import CFG, Branch, SuperDiffAND, SuperDiffOR
from suffuse.guidance.directions import remembered
from suffuse.guidance.superposition import Kernels
from suffuse.processes import VE, VP, Flow
from suffuse.samplers import DDIM, DDPM, LCM, DPMSolverPP, EulerAncestral, Heun
from suffuse.testing.analytic import GaussianMixture
from suffuse.testing.fixtures import conditions, fixture, states

PROCESSES = (VP(), Flow())
ROWS, DIMENSION = 5, 4


def laws(process, n=3, modes=1, std=1.0, kind=FLOW):
    generator = torch.Generator().manual_seed(0)
    return [
        GaussianMixture(torch.randn(modes, DIMENSION, generator=generator), process, std=std, kind=kind)
        for _ in range(n)
    ]


def start(rows=ROWS):
    return torch.randn(rows, DIMENSION, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def log_density(law, x, t):
    alpha, sigma = law.process.alpha(t).item(), law.process.sigma(t).item()
    spread = alpha**2 * law.variances + sigma**2
    away = ((x[:, None].double() - alpha * law.means) ** 2).sum(-1)
    return (law.log_weights - 0.5 * away / spread - 0.5 * DIMENSION * torch.log(2 * math.pi * spread)).logsumexp(1)


def run(process, guidance, *, steps=7, std=1.0, modes=1, others=None, sampler=DDPM(), noise=0, rows=ROWS, **settings):
    """A run of the first law with the others superposed: its trace of densities, weights, and the true densities."""
    own, *rest = laws(process, std=std, modes=modes) if others is None else others
    chosen = guidance(tuple(rest))
    found = sample(own, start(rows), sampler=sampler, steps=steps, guidance=chosen, noise=noise,
                   save=lambda run: (run.state.x, run.at and run.at.t), **settings)  # fmt: skip
    truth = torch.stack(
        [torch.stack([log_density(law, x, t) for law in (own, *rest)], 1) for x, t in found.saved[:-1]], 1
    )
    return found, remembered(found.state, type(chosen), "log_densities"), truth


# the estimator --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", [DDPM(), EulerAncestral(), DPMSolverPP(2, sde=True)])
def test_densities_of_normal_data_are_exact_at_any_step_length_on_any_path(process, sampler):
    _, trace, truth = run(process, lambda o: SuperDiffOR(o, w=1.0, T=0.3), sampler=sampler)
    assert trace.shape == (ROWS, 7, 3)
    change, true = trace - trace[:, :1], truth - truth[:, :1]
    assert (change - true).abs().max() < 1e-10
    if isinstance(process, Flow):  # which starts at noise that knows nothing of the data
        assert (trace - truth).abs().max() < 1e-10


def test_another_spread_of_the_data():
    _, trace, truth = run(Flow(), lambda o: SuperDiffOR(o, w=1.0, spread=0.3), std=0.3)
    assert (trace - truth).abs().max() < 1e-9


@pytest.mark.parametrize("process", PROCESSES)
def test_the_estimate_becomes_exact_with_the_square_root_of_the_step(process):
    errors = []
    for steps in (50, 200):
        grid = Grid(torch.linspace(1, 0.02, steps + 1))
        _, trace, truth = run(process, lambda o: SuperDiffOR(o, w=1.0, T=0.0), modes=3, std=0.5, grid=grid, rows=64)
        apart = [v[:, -1, :2].diff(dim=1) for v in (trace, truth)]
        errors.append(float((apart[0] - apart[1]).pow(2).mean().sqrt()))
    assert errors[1] < 0.75 * errors[0]


def test_kernels_are_those_of_the_paper_in_the_limit():
    """<dx, s> + (div f + <f, s> - g^2 |s|^2 / 2) dtau, where in sigma-space f = 0 and g^2 dtau = 2 sigma dsigma."""
    process, x, eps = VE(), torch.randn(2, 6).double(), torch.randn(2, 6).double()
    t, s = Coef(0.5), Coef(0.5 - 1e-6)
    sigma, less = process.sigma(t).item(), process.sigma(s).item()
    dx = 2 * (less - sigma) * eps + math.sqrt(2 * (sigma - less) * sigma) * torch.randn(2, 6).double()
    ito = -(sigma - less) / sigma * eps.pow(2).sum(1) - (dx * eps).sum(1) / sigma
    mean = process.posterior(x, process.predict(x, t, eps, EPS), t, s, 1.0).mean
    for spread in (1.0, math.inf):
        found = Kernels.of(process, t, s, spread).increments(x, x + dx, [mean])[:, 0]
        assert (found - ito).abs().max() < 1e-2 * ito.abs().max()
    # with the forward kernel's variance it is the released code's, at any step length
    s = Coef(0.3)
    less = process.sigma(s).item()
    law = process.posterior(x, process.predict(x, t, eps, EPS), t, s, 1.0)
    found = Kernels.of(process, t, s, math.inf).increments(x, x + dx, [law.mean])[:, 0]
    gap = sigma**2 - less**2
    assert torch.allclose(found, -(dx * eps).sum(1) / sigma - 0.5 * gap * eps.pow(2).sum(1) / sigma**2, rtol=1e-9)


def test_a_step_that_stays_changes_no_density():
    grid = Grid(torch.tensor([1.0, 0.7, 0.7, 0.3, 0.0]))
    _, trace, _ = run(Flow(), lambda o: SuperDiffOR(o, w=1.0), grid=grid)
    assert torch.equal(trace[:, 1], trace[:, 2]) and trace.isfinite().all()


# the operators --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("process", PROCESSES)
def test_or_weighs_by_densities_of_each_sample(process):
    found, trace, _ = run(process, lambda o: SuperDiffOR(o, w=1.0, T=0.5, bias=(0.0, 1.0, -1.0)))
    kappa = remembered(found.state, SuperDiffOR, "kappa")
    assert torch.allclose(kappa, (0.5 * trace + torch.tensor([0.0, 1.0, -1.0])).softmax(-1))
    assert (kappa[0] - kappa[1]).abs().max() > 1e-3


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", [DDPM(), DPMSolverPP(2, sde=True)])
def test_and_keeps_all_densities_equal_as_the_step_really_goes(process, sampler):
    found, trace, truth = run(process, lambda o: SuperDiffAND(o, w=1.0), sampler=sampler)
    assert (trace - trace[..., :1]).abs().max() < 1e-9
    assert torch.allclose(remembered(found.state, SuperDiffAND, "kappa").sum(-1), torch.ones(ROWS, 7).double())
    if isinstance(process, Flow):
        assert (truth - truth[..., :1]).abs().max() < 1e-9  # on normal data the true ones


def test_and_with_guidance_within_each_model():
    net, x, cond = fixture("sd3"), states("sd3", 3), conditions("sd3", 3)
    cond = cond.with_alt(**{"concept:one": cond[torch.tensor([1, 2, 0])], "concept:two": cond[torch.tensor([2, 0, 1])]})
    found = sample(net, x, sampler=DDPM(), steps=4, cond=cond, guidance=SuperDiffAND(("one", "two"), w=4.0))
    trace = remembered(found.state, SuperDiffAND, "log_densities")
    assert (trace - trace[..., :1]).abs().max() < 2e-4 * trace.abs().max()
    assert found.nfe.tolist() == [4 * 4] * 3  # three prompts and one null


def test_equal_models_share_the_weight():
    own = laws(Flow())[0]
    found, trace, _ = run(Flow(), lambda o: SuperDiffAND(o, w=1.0), others=[own, own, own])
    kappa = remembered(found.state, SuperDiffAND, "kappa")
    assert torch.allclose(kappa, torch.full_like(kappa, 1 / 3))
    alone = sample(own, start(), sampler=DDPM(), steps=7, noise=0)
    assert torch.allclose(found.x, alone.x)


def test_the_run_of_one_model_is_its_own_whatever_it_is_superposed_with():
    own, other = laws(Flow(), 2)
    for guidance in (SuperDiffOR((other,), w=1.0, T=0.0, bias=(50.0, -50.0)),):
        found = sample(own, start(), sampler=DDPM(), steps=5, guidance=guidance)
        assert torch.allclose(found.x, sample(own, start(), sampler=DDPM(), steps=5).x)
        assert found.nfe.tolist() == [10] * ROWS


def test_models_of_other_processes_and_kinds_are_read_in_the_runs_own():
    own, _ = laws(VP(), 2)
    there = laws(Flow(), 2, kind=X0)[1]
    here = laws(VP(), 2)[1]
    one, two = (
        sample(own, start(), sampler=DDPM(), steps=6, guidance=SuperDiffAND((o,), w=1.0)).x for o in (there, here)
    )
    assert torch.allclose(one, two, atol=1e-8)


def test_each_model_has_its_own_null():
    one, two = fixture("unet"), fixture("unet-v")
    x, cond, guidance = states("unet", 2), conditions("unet", 2), SuperDiffOR((two,), w=3.0, T=0.0)
    t, s = Coef(0.5), Coef(0.2)
    found = sample(one, x, sampler=DDPM(), grid=Grid(torch.tensor([0.5, 0.2])), cond=cond, guidance=guidance)
    assert found.nfe.tolist() == [4, 4] and guidance.evaluations == 4
    mean = 0.5 * sum(net.guided(CFG(3.0))(x, t, cond).eps for net in (one, two))
    law = one.process.posterior(x, one(x, t, cond).with_(eps=mean), t, s, 1.0)
    assert torch.allclose(found.x, law.at(Keyed(0).normal(x, (0, 1), "step/0")), atol=1e-4)


# refusals -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sampler", "reason"),
    [
        (DDIM(), "solves the ODE"),
        (DDIM(0.5), "adds noise of"),
        (LCM(), "adds noise of"),
        (Heun(), "one evaluation a step"),
        (Heun(churn=20.0), "one evaluation a step"),
    ],
)
def test_samplers_without_the_noise_of_the_sde_are_refused(sampler, reason):
    with pytest.raises(Refused, match=reason):
        run(VP(), lambda o: SuperDiffOR(o, w=1.0), sampler=sampler)


def test_what_leaves_the_path_is_refused():
    @dataclass(frozen=True)
    class Again(Hook):
        def __call__(self, step, x, at):
            step(x, at)
            return step(x, at.fold(1))

    with pytest.raises(Refused, match="along one path"):
        run(VP(), lambda o: SuperDiffOR(o, w=1.0), hooks=[Again()])
    with pytest.raises(Refused, match="a generator cannot"):
        run(VP(), lambda o: SuperDiffAND(o, w=1.0), noise=Stream(torch.Generator().manual_seed(0)))
    with pytest.raises(Refused, match="outermost"):
        run(VP(), lambda o: CFG(1.0) | SuperDiffAND(o, w=1.0))


def test_realised_noise_may_come_from_a_generator_where_nobody_looks_ahead():
    _, trace, truth = run(Flow(), lambda o: SuperDiffOR(o, w=1.0), noise=Stream(torch.Generator().manual_seed(0)))
    assert (trace - truth).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: SuperDiffOR(()), "nothing to superpose"),
        (lambda: SuperDiffOR("a blue square"), "give a tuple"),
        (lambda: SuperDiffOR((3,)), "branch 3"),
        (lambda: SuperDiffOR(("a",), bias=(1.0,)), "give one each"),
        (lambda: SuperDiffAND(("a",), spread=0.0), "above 0"),
    ],
)
def test_arguments_that_mean_nothing(make, reason):
    with pytest.raises(BadInput, match=reason):
        make()


def test_prompts_are_encoded_and_branches_keep_their_own():
    guidance = SuperDiffOR(("a blue square", Branch(path="rich", prompt="a green star")))
    assert guidance.prompts() == {"concept:a blue square": "a blue square", "rich": "a green star"}
