"""The denoising objective: what is drawn, what is compared, and that the exact predictor is its minimiser."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import nn

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.noise import Keyed
from suffuse.core.prediction import EPS, FLOW, SCORE, X0, V
from suffuse.core.training import Batch, Loss, Roles
from suffuse.core.value import Coef, Tree
from suffuse.processes.categorical import Absorbing, Uniform
from suffuse.processes.continuous import VP, Cosine, Flow
from suffuse.testing import check_method
from suffuse.testing.analytic import Gaussian, KnownLaw
from suffuse.training import Constant, Denoising, Extra, LogitNormal, MinSNR, UniformTimes

N = 400


def loss_of(model: Denoiser, data, objective: Denoising = Denoising(), cond: Cond = EMPTY, seed: int = 0) -> Loss:
    n = len(next(iter(data.values())) if isinstance(data, (dict, Tree)) else data)
    parts = objective.parts(Roles({"model": model}))
    return objective(Roles({"model": model}), Batch(data, cond, torch.arange(n)), Keyed(seed), parts)


class Moved(Denoiser):
    """Another denoiser whose value has a learned constant and slope added."""

    def __init__(self, base: Denoiser):
        super().__init__()
        self.base, self.process = base, base.process
        self.shift = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x, t, cond=EMPTY):
        p = self.base(x, t, cond)
        value = p.value + self.shift[0] + self.shift[1] * x
        return self.process.predict(x, Coef(t), value, self.base.kind)


@pytest.mark.parametrize(
    ("process", "kind"), [(Flow(), FLOW), (VP(), EPS), (VP(), V), (Cosine(), X0)], ids=["flow", "eps", "v", "x0"]
)
def test_the_exact_predictor_is_the_minimiser(process, kind):
    exact = Gaussian(torch.tensor([0.5, -1.0, 2.0]), process, std=0.7, kind=kind)
    model, data = Moved(exact), exact.data(3000)
    objective = Denoising(times=UniformTimes(0.2, 0.9))
    loss = loss_of(model, data, objective)
    # The gradient of every sample at the minimiser: their mean is zero within what so few samples can say.
    gradients = torch.stack(
        [torch.autograd.grad(part.mean(), model.shift, retain_graph=True)[0] for part in loss.per_sample.split(75)]
    )
    error = gradients.std(0) / len(gradients) ** 0.5
    assert (gradients.mean(0).abs() < 4 * error).all()
    model.shift.data[0] = 0.3  # and away from it there is one
    away = torch.autograd.grad(loss_of(model, data, objective).total, model.shift)[0]
    assert away[0] > 10 * error[0]


class Spy(Denoiser):
    """Predicts zero, and remembers what it was asked."""

    def __init__(self, process=Flow(), kind=FLOW):
        super().__init__()
        self.process, self.kind, self.gain = process, kind, nn.Parameter(torch.zeros(()))
        self.asked = []

    def forward(self, x, t, cond=EMPTY):
        self.asked.append((x, Coef(t), cond))
        return self.process.predict(x, Coef(t), self.gain * x, self.kind)


def test_the_state_is_the_processs_and_the_target_the_kinds():
    x0 = torch.randn(N, 2, 3, generator=torch.Generator().manual_seed(0))
    for process, kind in ((Flow(), FLOW), (VP(), EPS), (VP(), SCORE), (Cosine(), V)):
        model = Spy(process, kind)
        loss = loss_of(model, x0, Denoising(times=UniformTimes(0.1, 0.9)))
        ((x, t, _),) = model.asked
        eps = Keyed(0).normal(x0, range(N), "eps")
        torch.testing.assert_close(x, process.marginal(x0, t).at(eps))
        torch.testing.assert_close(loss.per_sample, process.target(x0, eps, t, kind).square().mean((1, 2)))
        assert torch.equal(loss.t, t.d) and 0.1 <= loss.t.min() and loss.t.max() <= 0.9


def test_laws_of_time():
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    assert UniformTimes(0.2, 0.6)(u).mean().item() == pytest.approx(0.4, abs=1e-4)
    t = LogitNormal(1.0, 0.5)(u)
    z = torch.log(t / (1 - t))
    assert (z.mean().item(), z.std().item()) == (pytest.approx(1.0, abs=1e-3), pytest.approx(0.5, abs=1e-3))
    ends = LogitNormal()(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.isfinite(ends).all() and ends[0] > 0 and ends[1] < 1


def test_min_snr_weighs_errors_of_x0_whatever_the_network_outputs():
    process, x0 = VP(), torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    objective = Denoising(weight=MinSNR(5.0), times=UniformTimes(0.05, 0.9))
    losses = []
    for kind in (X0, EPS, V):
        exact = Gaussian(torch.zeros(3), process, std=0.3, kind=kind)  # the same prediction in three forms
        losses.append(loss_of(exact, x0, objective))
    t = Coef(losses[0].t)
    snr = ((process.alpha(t) / process.sigma(t)) ** 2).d
    plain = loss_of(Gaussian(torch.zeros(3), process, std=0.3, kind=X0), x0, Denoising(times=objective.times))
    torch.testing.assert_close(losses[0].per_sample, plain.per_sample * snr.clamp(max=5.0))
    for other in losses[1:]:
        torch.testing.assert_close(other.per_sample, losses[0].per_sample, rtol=1e-6, atol=1e-9)
    assert Constant()(None) == 1.0


def test_a_weight_map_weighs_entries():
    x0 = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    weight = torch.ones(6, 1, 4, 4)
    weight[..., :2] = 0
    half = loss_of(Spy(), {"x0": x0, "weight": weight}).per_sample
    changed = x0.clone()
    changed[..., :2] += 5.0
    torch.testing.assert_close(loss_of(Spy(), {"x0": changed, "weight": weight}).per_sample, half)
    torch.testing.assert_close(loss_of(Spy(), {"x0": x0}).per_sample, loss_of(Spy(), x0).per_sample)


def test_a_state_of_several_parts_is_one_state():
    data = Tree(a=torch.randn(5, 3), x0=torch.randn(5, 2, 2))
    model = Spy()
    loss = loss_of(model, data)
    assert loss.per_sample.shape == (5,)
    assert isinstance(model.asked[0][0], Tree)


def test_dropout_replaces_conditions_of_a_share_of_rows():
    null = Cond({"label": torch.full((N,), 9), "size": torch.full((N, 2), -1.0)})
    cond = Cond({"label": torch.zeros(N, dtype=torch.long), "size": torch.ones(N, 2), "note": "kept"}, {"null": null})
    model = Spy()
    loss_of(model, torch.randn(N, 3), Denoising(dropout=0.25), cond)
    seen = model.asked[0][2]
    dropped = seen["label"] == 9
    assert 0.15 < dropped.float().mean() < 0.35 and seen["note"] == "kept"
    assert torch.equal(seen["size"], torch.where(dropped[:, None], -1.0, 1.0).expand(N, 2))


@dataclass(frozen=True)
class Probe(Extra):
    """The mean of what was drawn, times a trained number."""

    scale: float = 2.0
    seen: list = field(default_factory=list)
    name: ClassVar[str] = "probe"

    def parts(self, roles):
        return nn.ModuleDict({"gain": nn.ParameterList([torch.ones(())])})

    def __call__(self, draw, parts):
        self.seen.append(draw)
        return draw.x.flatten(1).mean(1) * parts["gain"][0]


def test_extra_losses_see_the_draw_and_add_up():
    x0, probe, model = torch.randn(8, 3), Probe(), Spy()
    loss = loss_of(model, x0, Denoising(extra=(probe,)))
    (draw,) = probe.seen
    assert torch.equal(draw.x0, x0) and torch.equal(draw.x, model.asked[0][0]) and torch.equal(draw.t.d, loss.t)
    torch.testing.assert_close(loss.per_sample, loss_of(Spy(), x0).per_sample + 2.0 * loss.terms["probe"])
    silent = Probe(scale=0.0)
    assert not loss_of(Spy(), x0, Denoising(extra=(silent,))).terms and not silent.seen
    assert not Denoising(extra=(silent,)).parts(Roles({}))


@pytest.mark.parametrize("process", [Absorbing(3), Uniform(2)], ids=["mask", "uniform"])
def test_the_exact_posterior_of_each_entry_is_the_minimiser_for_categories(process):
    law = KnownLaw(torch.tensor([[0, 0], [0, 1], [1, 1]]), process, probs=torch.tensor([0.5, 0.2, 0.3]))

    class MovedLogits(Denoiser):
        """The exact logits and learned ones for each category, and for the category that the entry is in."""

        def __init__(self):
            super().__init__()
            self.process, self.shift = process, nn.Parameter(torch.zeros(2, process.K))

        def forward(self, x, t, cond=EMPTY):
            own = nn.functional.one_hot(x, process.K)
            return process.predict(x, Coef(t), law(x, t).logits + self.shift[0] + own * self.shift[1])

    model, generator = MovedLogits(), torch.Generator().manual_seed(0)
    rows = torch.multinomial(law.log_probs.exp(), 4000, replacement=True, generator=generator)
    loss = loss_of(model, law.states[rows], Denoising(times=UniformTimes(0.3, 0.7)))
    gradients = torch.stack(
        [torch.autograd.grad(part.mean(), model.shift, retain_graph=True)[0] for part in loss.per_sample.split(100)]
    )
    error = gradients.std(0) / len(gradients) ** 0.5
    assert (gradients.mean(0).abs() <= 4 * error).all()
    assert (error[0, :2] > 0).all()


def test_decided_entries_cost_nothing_and_count_nothing():
    x0 = torch.tensor([[0, 1, 0, 1]]).repeat(N, 1)
    process = Absorbing(3)

    class Even(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = process

        def forward(self, x, t, cond=EMPTY):
            return process.predict(x, Coef(t), torch.zeros(*x.shape, 3))

    loss = loss_of(Even(), x0, Denoising(times=UniformTimes(0.4, 0.6)))
    one_bit = torch.tensor(2.0).log()
    masked = loss.per_sample > 0
    torch.testing.assert_close(loss.per_sample[masked], one_bit.expand(int(masked.sum())))
    assert 0.85 < masked.float().mean() < 0.999  # now and then no entry is masked: nothing to learn


def test_the_generated_checks():
    check_method(Denoising())
