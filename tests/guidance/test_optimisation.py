"""Optimisation by conditional sampling: rewards rise, the data's subspace is kept."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.denoiser import EMPTY, Denoiser, Network
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.core.prediction import X0
from suffuse.core.value import Coef
from suffuse.guidance import (
    GradientGuidance,
    LinearTarget,
    NeuralReward,
    Ridge,
    Support,
    ascend,
    gradient_ascent,
    optimise,
)
from suffuse.networks import MLP, ConditionedMLP, ConditionedMLPFamily, MLPFamily
from suffuse.processes.continuous import VP, Flow
from suffuse.samplers import DDIM
from suffuse.testing.analytic import Gaussian

GENERATOR = torch.Generator().manual_seed(0)
A = torch.linalg.qr(torch.randn(10, 3, generator=GENERATOR, dtype=torch.float64))[0].float()
SLOPE = torch.tensor([0.6, 0.0, -0.8])


def states(n, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) @ A.T


def reward(x):
    """Standard normal on the data."""
    return (x.float() @ A) @ SLOPE


class Subspace(Denoiser):
    """The exact denoiser of A z."""

    process = VP()

    def forward(self, x, t, cond=EMPTY):
        t = Coef(t)
        a, s = self.process.alpha(t), self.process.sigma(t)
        return self.process.predict(x, t, a / (a * a + s * s) * (x @ A @ A.T), X0)


def test_a_ridge_finds_the_slope_with_few_labels_and_with_many():
    for n in (6, 40):
        x = states(n, 1)
        model = Ridge(1e-6).fit(x, reward(x) + 5.0)
        torch.testing.assert_close(model(states(20)), reward(states(20)) + 5.0, rtol=1e-3, atol=1e-3)
        assert model.g.shape == (10,)
    pictures = torch.randn(30, 1, 2, 2)
    model = Ridge(1e-6).fit(pictures, pictures.mean((1, 2, 3)))
    torch.testing.assert_close(model.g, torch.full((1, 2, 2), 0.25), rtol=1e-3, atol=1e-3)
    flat = Ridge(1e6).fit(pictures, pictures.mean((1, 2, 3)))
    assert flat.g.abs().max() < 1e-5


def test_a_neural_reward_fits_its_labels():
    x = states(40)
    model = NeuralReward(32, 300, 1e-2).fit(x, reward(x).square())
    assert (model(x) - reward(x).square()).abs().mean() < 0.2
    assert torch.equal(model(x), NeuralReward(32, 300, 1e-2).fit(x, reward(x).square())(x))


def test_off_support_energy():
    support = Support.of(states(50) + 2.0)
    assert support.basis.shape == (10, 3)
    assert (support.energy(states(5, 3) + 2.0) < 1e-6).all()
    away = torch.linalg.svd(A.T.double())[2][3:].sum(0)  # orthogonal to the data, of length sqrt(7)
    torch.testing.assert_close(support.energy(states(5) + 2.0 + away), torch.full((5,), 7.0, dtype=torch.float64),
                               rtol=1e-4, atol=1e-4)  # fmt: skip
    assert Support.of(states(50), rank=2).basis.shape == (10, 2)


@pytest.mark.parametrize("process", [VP(), Flow()], ids=lambda p: type(p).__name__)
def test_a_linear_target_draws_the_conditional_law(process):
    known = Gaussian(torch.zeros(3, dtype=torch.float64), process, std=0.8, kind=X0)
    g, x = torch.tensor([1.0, 2.0, 0.0]), torch.randn(4000, 3, dtype=torch.float64, generator=GENERATOR)
    guidance = GradientGuidance(LinearTarget(g, 3.0, process, 0.5, 0.8), look_ahead=True)
    found = sample(known, x, sampler=DDIM(), steps=100, guidance=guidance).x @ g.double()
    prior, seen = 5 * 0.8**2, 0.5**2  # variances of g . x0, and of y
    assert abs(found.mean() - 3 * prior / (prior + seen)) < 0.05
    assert abs(found.std() - (prior * seen / (prior + seen)) ** 0.5) < 0.03


def test_gradient_ascent_leaves_the_data():
    x = states(16)
    model = NeuralReward(32, 200).fit(states(64, 5), reward(states(64, 5)))
    way = gradient_ascent(model, x, steps=30, rate=0.2)
    assert way.shape == (31, 16, 10) and torch.equal(way[0], x)
    assert (model(way[-1]) > model(x)).all()
    support = Support.of(states(50))
    assert support.energy(way[-1]).mean() > 10 * support.energy(x).mean()
    exact = gradient_ascent(reward, x, steps=2, rate=0.5)
    torch.testing.assert_close(exact[2], x + A @ SLOPE)


def test_ascending_by_gradient_guidance_keeps_the_subspace():
    asked = []

    def box(x):
        asked.append(len(x))
        with torch.no_grad():
            return reward(x)

    found = ascend(Subspace(), (10,), box, rounds=3, n=48, stride=1.0, steps=20)
    means = [float(c.reward.mean()) for c in found]
    assert len(found) == 4 and asked == [48] * 4
    assert means[1] > 0.5 and all(b > a + 0.3 for a, b in zip(means, means[1:], strict=False))
    assert max(float(c.off_support.mean()) for c in found) < 0.05
    assert found[-1].row().keys() == {"target", "predicted", "reward", "off-support", "shift"}
    assert found[-1].shift > found[1].shift


def small(shape):
    return Network(ConditionedMLP(shape, 64, 1), ConditionedMLPFamily(), VP(), X0)


@pytest.fixture(scope="module")
def found():
    return optimise(states(512), states(32, 7), reward, targets=(0.0, 2.0), n=32, steps=200, batch=32, lr=5e-3,
                    sample_steps=20, build=small)  # fmt: skip


def test_optimising_reaches_the_target_on_the_support(found):
    low, high = found.candidates
    assert abs(low.reward.mean()) < 0.4 and high.reward.mean() > 1.5
    assert high.off_support.mean() < 0.3 < high.shift
    assert found.support.basis.shape == (10, 3)
    torch.testing.assert_close(high.predicted, found.model(high.x))


def test_numbers_will_do_for_a_reward_and_bad_ones_are_named():
    how = {"steps": 2, "n": 4, "sample_steps": 2, "batch": 16}
    given = optimise(states(32), states(8, 7), reward(states(8, 7)), **how)
    assert given.candidates[0].reward is None and "reward" not in given.candidates[0].row()
    with pytest.raises(BadInput, match="7 labelled states"):
        optimise(states(32), states(7), torch.zeros(8), **how)
    with pytest.raises(BadInput, match="same for all data"):
        optimise(states(32), states(8), torch.zeros(8), **how)


def test_a_score_can_be_refreshed():
    torch.manual_seed(0)
    base = Network(MLP((10,), 16, 1), MLPFamily(), VP(), X0).eval()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    plain = ascend(base, (10,), reward, rounds=2, n=16, steps=4)
    fresh = ascend(base, (10,), reward, rounds=2, n=16, steps=4, refresh=3)
    assert torch.equal(plain[1].x, fresh[1].x) and not torch.equal(plain[2].x, fresh[2].x)
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
