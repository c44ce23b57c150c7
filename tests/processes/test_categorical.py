"""Discrete corruption against Bayes' rule by hand, and ancestral sampling of a known law."""

from __future__ import annotations

import itertools

import pytest
import torch

from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.engine import sample
from suffuse.core.grid import Grid
from suffuse.core.noise import Stream
from suffuse.core.prediction import Logits
from suffuse.core.process import Categorical
from suffuse.core.value import Coef
from suffuse.processes import Absorbing, Uniform
from suffuse.samplers import Ancestral
from suffuse.testing.analytic import KnownLaw

PROCESSES = [Absorbing(4), Absorbing(4, "cosine"), Uniform(3)]
EACH = pytest.mark.parametrize("process", PROCESSES, ids=str)


def kernel(process: Categorical, s: float, t: float) -> torch.Tensor:
    """(K, K) q(x_t = j | x_s = i)."""
    stay = process.keep(Coef(t)).item() / process.keep(Coef(s)).item()
    limit = process.limit(torch.zeros(1, dtype=torch.long))
    return stay * torch.eye(process.K).double() + (1 - stay) * limit


@EACH
def test_the_posterior_is_bayes_rule(process):
    s, t = 0.3, 0.7
    clean = process.K - 1 if isinstance(process, Absorbing) else process.K
    p0 = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    to_s, to_t, between = kernel(process, 0.0, s), kernel(process, 0.0, t), kernel(process, s, t)
    for x in range(process.K):
        # what a network knows: p(x0 | x_t), from the prior law p0 of the clean category
        known = p0[:clean] * to_t[:clean, x]
        known = known / known.sum()
        want = torch.zeros(process.K, dtype=torch.float64)
        for c in (c for c in range(clean) if known[c] > 0):
            want += known[c] * to_s[c] * between[:, x] / to_t[c, x]
        logits = torch.full((1, 1, process.K), -torch.inf, dtype=torch.float64)
        logits[0, 0, :clean] = known.log()
        p = process.predict(torch.tensor([[x]]), Coef(t), logits)
        law = process.posterior(torch.tensor([[x]]), p, Coef(t), Coef(s))
        torch.testing.assert_close(law.probs[0, 0], want, rtol=1e-9, atol=1e-12)


class Both(Absorbing):
    """A replaced entry is masked or drawn uniformly; a mask may be replaced again."""

    def limit(self, like):
        clean = torch.full((self.K,), 0.3 / (self.K - 1), dtype=torch.float64)
        clean[self.mask] = 0.7
        return clean

    predict = Categorical.predict


@pytest.mark.parametrize(
    "process", [Absorbing(5), Absorbing(4, "cosine"), Uniform(5), Both(4), Uniform(2), Absorbing(2)], ids=repr
)
def test_the_posterior_equals_products_of_transition_matrices(process):
    """q(x_s = j | x_t, x0 = c) = Qbar_s[c, j] (Q_{s+1} ... Q_t)[j, x_t] / Qbar_t[c, x_t], for any stride."""
    times = torch.linspace(0, 0.9, 10).tolist()
    steps = [kernel(process, a, b) for a, b in itertools.pairwise(times)]
    for low, high in ((0, 1), (0, 9), (3, 4), (2, 8)):
        to_s, between = (torch.linalg.multi_dot(steps[a:b] + [torch.eye(process.K).double()] * 2)
                         for a, b in ((0, low), (low, high)))  # fmt: skip
        to_t = to_s @ between
        for c, x in itertools.product(range(process.K), repeat=2):
            if to_t[c, x] > 0:
                logits = torch.full((1, 1, process.K), -torch.inf, dtype=torch.float64)
                logits[..., c] = 0.0
                law = process.posterior(
                    torch.tensor([[x]]), Logits(torch.tensor([[x]]), logits), Coef(times[high]), Coef(times[low])
                )
                want = to_s[c] * between[:, x] / to_t[c, x]
                torch.testing.assert_close(law.probs[0, 0], want, rtol=0.0, atol=1e-12)


@EACH
def test_marginal_and_prior(process):
    x0 = torch.tensor([[0, 1, 2]])
    for t in (0.0, 0.4, 1.0):
        probs = process.marginal(x0, Coef(t)).probs[0]
        torch.testing.assert_close(probs, kernel(process, 0.0, t)[x0[0]], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(process.prior(x0).probs[0], kernel(process, 0.0, 1.0)[x0[0]], rtol=1e-9, atol=1e-9)


@EACH
def test_a_step_of_no_length_changes_nothing(process):
    x = torch.tensor([[0, 1, 2, process.K - 1]])
    p = process.predict(x, Coef(0.5), torch.randn(1, 4, process.K, dtype=torch.float64))
    for t in (Coef(0.5), Coef(torch.tensor([0.5]))):
        assert process.posterior(x, p, t, t).probs.gather(-1, x[..., None]).min() == pytest.approx(1.0)


def test_decided_entries_stay():
    process = Absorbing(4)
    x = torch.tensor([[0, 3, 2, 3]])
    p = process.predict(x, Coef(0.6), torch.randn(1, 4, 4))
    assert isinstance(p, Logits) and p.probs[0, 0, 0] == 1 and float(p.probs[..., 3].max()) == 0
    law = process.posterior(x, p, Coef(0.6), Coef(0.2))
    assert law.probs[0, 0, 0] == 1 and law.probs[0, 2, 2] == 1 and 0 < law.probs[0, 1, 3] < 1


@EACH
def test_ancestral_sampling_of_a_known_law(process):
    """Two entries that depend on each other: many steps sample their joint law, one step the product of marginals."""
    states = torch.tensor([[0, 0], [1, 1], [0, 2]])
    probs = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    denoiser, n = KnownLaw(states, process, probs=probs), 3000
    pairs = list(itertools.product(range(3), repeat=2))

    def frequencies(steps: int) -> dict[tuple[int, int], float]:
        noise = Stream(torch.Generator().manual_seed(1))
        grid = Grid(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
        x = sample(denoiser, (n, 2), sampler=Ancestral(), grid=grid, noise=noise).x
        return {pair: float((x == torch.tensor(pair)).all(1).double().mean()) for pair in pairs}

    joint = {tuple(s): p for s, p in zip(states.tolist(), probs.tolist(), strict=True)}
    many, one = frequencies(40), frequencies(1)
    assert max(abs(many[pair] - joint.get(pair, 0.0)) for pair in many) < 0.04
    first, second = ([sum(p for s, p in joint.items() if s[k] == c) for c in range(3)] for k in (0, 1))
    marginal = {(a, b): first[a] * second[b] for a, b in pairs}
    assert max(abs(one[pair] - marginal[pair]) for pair in one) < 0.04


class Exact(Denoiser):
    """p(x0_i | the entries that are not masked), of binary states with these probabilities (2, 2, ...)."""

    def __init__(self, joint: torch.Tensor):
        super().__init__()
        self.process, self.joint = Absorbing(3), joint.double()
        self.states = torch.cartesian_prod(*[torch.arange(2)] * joint.ndim)

    def forward(self, x, t, cond=EMPTY):
        fits = ((x[:, None] == self.states) | (x[:, None] == 2)).all(-1) * self.joint.flatten()
        p = torch.einsum("bm,mlk->blk", fits, torch.nn.functional.one_hot(self.states, 3).double())
        return self.process.predict(x, Coef(t), torch.log(p))


def variation(joint: torch.Tensor, x: torch.Tensor) -> float:
    """Total variation between a law of binary states and a sample of it."""
    codes = (x * 2 ** torch.arange(joint.ndim - 1, -1, -1)).sum(1)
    return (codes.bincount(minlength=joint.numel()) / len(x) - joint.flatten()).abs().sum().item() / 2


def test_a_joint_law_is_reached_in_random_order_and_in_any_fixed_one():
    joint = torch.tensor([8.0, 1.0, 1.0, 4.0, 0.0, 2.0, 6.0, 2.0]).view(2, 2, 2) / 24
    denoiser, n = Exact(joint), 4000

    def run(times: torch.Tensor) -> torch.Tensor:
        noise = Stream(torch.Generator().manual_seed(0))
        return sample(denoiser, (n, 3), sampler=Ancestral(), grid=Grid(times), noise=noise).x

    # what so many draws of the law itself would give is 0.017 on average
    assert variation(joint, run(torch.linspace(1, 0, 61))) < 0.045  # entries appear in random order
    for order in itertools.permutations(range(3)):
        clock = torch.ones(4, 3)
        for k, entry in enumerate(order):
            clock[k + 1 :, entry] = 0.0
        assert variation(joint, run(clock)) < 0.045
    assert variation(joint, run(torch.tensor([1.0, 0.0]))) > 0.2  # all at once: the product of the marginals


def test_a_known_law_knows_what_is_left():
    denoiser = KnownLaw(torch.tensor([[0, 0], [1, 1]]), Absorbing(3), probs=torch.tensor([0.75, 0.25]))
    p = denoiser(torch.tensor([[2, 2], [1, 2]]), 0.5)
    torch.testing.assert_close(p.probs[0], torch.tensor([[0.75, 0.25, 0.0]] * 2, dtype=torch.float64))
    torch.testing.assert_close(p.probs[1, 1], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
