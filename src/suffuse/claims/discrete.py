"""Claims of diffusion on categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.engine import sample
from suffuse.core.law import Choice
from suffuse.core.noise import Stream
from suffuse.core.prediction import Logits
from suffuse.core.process import Categorical
from suffuse.core.training import Phase
from suffuse.core.value import Coef
from suffuse.evaluation.statistics import Estimate, jackknife
from suffuse.networks.residual_mlp import MLP, MLPFamily
from suffuse.processes.categorical import Absorbing, Uniform
from suffuse.samplers.ancestral import Ancestral
from suffuse.testing.analytic import KnownLaw
from suffuse.training.denoising import Denoising
from suffuse.training.followers import EMA
from suffuse.training.optimisers import AdamW, WarmupDecay
from suffuse.training.sources import Shuffled
from suffuse.training.trainer import Trainer
from suffuse.zoo.recipes.digits import data

from . import digits
from .claim import Cell, Figure, Table, at_most, claim

LEVELS, TOKENS = 17, 64
STEPS, BATCH = 1500, 128


@claim(
    paper="d3pm",
    expect={
        "error of the posterior": at_most(1e-12),
        "total variation to a known joint law": at_most(0.03),
        "Frechet in 32 steps / independent tokens": at_most(0.2),
        "Frechet in 32 steps / 8 steps": at_most(0.8),
    },
    budget=300,
)
def d3pm(seed: int) -> Table:
    """Absorbing-state diffusion of digits as 64 tokens of 17 grey levels and a mask, against independent tokens.

    An MLP trained by cross-entropy for 1500 steps of 128, sampled ancestrally in 8, 16 and 32 steps: Frechet distance
    of 2000 samples to the digits, on the features of a classifier trained here, against tokens drawn each from its own
    law in the data, and against uniform ones. Intervals are of the samples, not of the training: seed 1 gives 0.05 and
    0.38 for the two ratios. Training for 4000 steps gives no better model.

    The posterior of mask and uniform noise, K = 2 to 5, against products of explicit transition matrices: largest error
    of a probability. Ancestral sampling with the exact predictor of a law of three dependent tokens, which appear in
    random order: total variation of 20000 draws.
    """
    tokens = _tokens()
    model = _trained(tokens, seed)
    made = {f"Absorbing, {n} steps": _sampled(model, n, seed) for n in (8, 16, 32)}
    generator = torch.Generator().manual_seed(seed)
    made["independent tokens"] = _shuffled(tokens, generator)
    made["uniform tokens"] = torch.randint(LEVELS, (digits.N, TOKENS), generator=generator)
    frechet = {name: _frechet(x) for name, x in made.items()}
    rows: list[Mapping[str, Cell]] = [{"tokens": name, "Frechet": found.estimate} for name, found in frechet.items()]
    last = frechet["Absorbing, 32 steps"]
    figures: dict[str, Figure] = {
        "error of the posterior": max(map(_posterior_error, (Absorbing(2), Absorbing(5), Uniform(2), Uniform(5)))),
        "total variation to a known joint law": _variation(seed),
        "Frechet in 32 steps / independent tokens": last.ratio(frechet["independent tokens"]),
        "Frechet in 32 steps / 8 steps": last.ratio(frechet["Absorbing, 8 steps"]),
        "accuracy of the classifier": digits.accuracy(),
    }
    return Table(rows, figures)


def _tokens() -> Tensor:
    """(N, 64) grey levels 0 to 16 of the digits."""
    return ((data()[0].flatten(1) + 1) * 8).round().long()


def _pictures(tokens: Tensor) -> Tensor:
    return (tokens.float() / 8 - 1).view(-1, 1, 8, 8)


def _shuffled(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Each token from the data's law of its place, apart from all others."""
    rows = torch.randint(len(tokens), (digits.N, TOKENS), generator=generator)
    return tokens.gather(0, rows)


@dataclass(frozen=True)
class Distance:
    """A Frechet distance of N pictures, and those without each tenth of them."""

    whole: float
    without: Sequence[float]

    @property
    def estimate(self) -> Estimate:
        return jackknife(self.whole, self.without, n=digits.N)

    def ratio(self, other: Distance) -> Estimate:
        above = [part / other.whole for part in self.without]
        below = [self.whole / part for part in other.without]
        return jackknife(self.whole / other.whole, above, below, n=digits.N)


def _frechet(tokens: Tensor, blocks: int = 10) -> Distance:
    pictures = _pictures(tokens)
    block = torch.arange(len(pictures)) % blocks
    return Distance(digits.distance(pictures), [digits.distance(pictures[block != k]) for k in range(blocks)])


def _trained(tokens: Tensor, seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Network(MLP((TOKENS,), categories=LEVELS + 1), MLPFamily(), Absorbing(LEVELS + 1), None)
    phase = Phase(Denoising(), optim=AdamW(2e-3, schedule=WarmupDecay(50, 0.5)))
    trainer = Trainer({"model": model}, phase, {"ema": EMA(decay=0.995)}, seed=seed)
    for _ in trainer.fit(Shuffled(tokens, Cond(), BATCH, seed), STEPS):
        pass
    trained = trainer.roles.ema.eval()
    assert isinstance(trained, Network)
    return trained


def _sampled(model: Network, steps: int, seed: int) -> Tensor:
    return sample(model, (digits.N, TOKENS), sampler=Ancestral(), steps=steps, noise=seed).x


def _posterior_error(process: Categorical) -> float:
    """Largest |q(x_s | x_t, x0) - Bayes' rule on products of transition matrices|, over strides of 1, 4 and 9."""
    K, times = process.K, torch.linspace(0, 0.9, 10).tolist()
    eye, limit = torch.eye(K, dtype=torch.float64), process.limit(torch.zeros(1, dtype=torch.long))
    stay = [(process.keep(Coef(t)) / process.keep(Coef(s))).item() for s, t in pairwise(times)]
    matrices = [p * eye + (1 - p) * limit for p in stay]
    error = 0.0
    for low, high in ((0, 9), (3, 4), (5, 9)):
        to_s, between = _product(matrices[:low], eye), _product(matrices[low:high], eye)
        to_t = to_s @ between
        for c, x in product(range(K), repeat=2):
            if to_t[c, x] > 0:
                known = torch.full((1, 1, K), -torch.inf, dtype=torch.float64)
                known[..., c] = 0.0
                state = torch.tensor([[x]])
                law = process.posterior(state, Logits(state, known), Coef(times[high]), Coef(times[low]))
                assert isinstance(law, Choice)
                error = max(error, (law.probs[0, 0] - to_s[c] * between[:, x] / to_t[c, x]).abs().max().item())
    return error


def _product(matrices: list[Tensor], eye: Tensor) -> Tensor:
    for matrix in matrices:
        eye = eye @ matrix
    return eye


def _variation(seed: int, n: int = 20_000, steps: int = 60) -> float:
    joint = torch.tensor([8.0, 1.0, 1.0, 4.0, 0.0, 2.0, 6.0, 2.0]) / 24
    states = torch.cartesian_prod(*[torch.arange(2)] * 3)
    exact = KnownLaw(states, Absorbing(3), probs=joint)
    noise = Stream(torch.Generator().manual_seed(seed))
    x = sample(exact, (n, 3), sampler=Ancestral(), steps=steps, noise=noise).x
    found = (x * torch.tensor([4, 2, 1])).sum(1).bincount(minlength=8) / n
    return (found - joint).abs().sum().item() / 2
