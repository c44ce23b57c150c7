"""Distributions that a process or a step returns; the engine draws them, training and RL evaluate them.

Whatever is already certain (standard deviation 0, a decided token) has log-probability and gradient 0: certainty is
masked *before* the logarithm, because the gradient of log(0) is NaN even under a later mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .value import Coef, Tree, Value, combine

Draw = Callable[..., Any]
"""draw(like, tag="", kind="normal") -> noise shaped like `like`; `Step.noise` is one."""


def per_sample(v: Tensor) -> Tensor:
    """(B,): sum over all axes but the first."""
    return v.flatten(1).sum(1) if v.ndim > 1 else v


class Law(ABC):
    """A distribution over states, independent between rows."""

    mean: Value

    @abstractmethod
    def sample(self, draw: Draw) -> Value:
        """One draw, made of noise from `draw`."""

    def at(self, z: Value | float) -> Value:
        """The state so many standard deviations `z` above the mean; the mean itself where the law has no deviation."""
        return self.mean

    @abstractmethod
    def log_prob(self, x: Value, keep: Tensor | float = 1.0) -> Tensor:
        """(B,) log-density of `x`, summed over the entries selected by `keep` (0 or 1, broadcast to x)."""

    @abstractmethod
    def kl(self, other: Law) -> Tensor:
        """(B,) Kullback-Leibler divergence KL(self || other) to a law of the same kind."""


@dataclass(frozen=True)
class Delta(Law):
    """The point mass at `mean`."""

    mean: Value

    def sample(self, draw: Draw) -> Value:
        return self.mean

    def log_prob(self, x: Value, keep: Tensor | float = 1.0) -> Tensor:
        first = next(iter(self.mean.parts.values())) if isinstance(self.mean, Tree) else self.mean
        return torch.zeros(first.shape[0], dtype=torch.float64)

    def kl(self, other: Law) -> Tensor:
        return self.log_prob(self.mean)


@dataclass(frozen=True)
class Normal(Law):
    """N(mean, std^2) with independent entries; `std` is a Coef, 0 where nothing is random."""

    mean: Value
    std: Coef

    @property
    def parts(self) -> Product:
        """The same law of a Tree, part by part."""
        return Product(self.mean.map(lambda mean: Normal(mean, self.std)))

    def sample(self, draw: Draw) -> Value:
        return self.at(draw(self.mean))

    def at(self, z: Value | float) -> Value:
        noise = torch.full_like(self.mean, z) if isinstance(z, (int, float)) else z
        return combine((1.0, self.mean), (self.std, noise))

    def _std(self) -> tuple[Tensor, Tensor]:
        std = torch.as_tensor(self.std.to(self.mean), dtype=torch.float64)
        return torch.where(std > 0, std, 1.0), (std > 0).double()

    def noise_of(self, x: Value) -> Value:
        """The z for which `at(z)` is `x`; 0 where std is 0."""
        if isinstance(self.mean, Tree):
            return self.mean.map(lambda mean, part: Normal(mean, self.std).noise_of(part), x)
        std, random = self._std()
        return ((x.double() - self.mean.double()) / std * random).to(x.dtype)

    def log_prob(self, x: Value, keep: Tensor | float = 1.0) -> Tensor:
        if isinstance(self.mean, Tree):
            return self.parts.log_prob(x, keep)
        std, random = self._std()
        z = (x.double() - self.mean.double()) / std
        return per_sample((-0.5 * z**2 - torch.log(std) - 0.9189385332046727) * random * keep)

    def kl(self, other: Law) -> Tensor:
        assert isinstance(other, Normal)
        if isinstance(self.mean, Tree):
            return self.parts.kl(other.parts)
        (s, random), (o, _) = self._std(), other._std()
        d = self.mean.double() - other.mean.double()
        return per_sample((torch.log(o / s) + (s**2 + d**2) / (2 * o**2) - 0.5) * random)


@dataclass(frozen=True)
class Choice(Law):
    """A category for every entry; `logits` (B, ..., K) over all K states, -inf where impossible."""

    logits: Tensor

    @property
    def probs(self) -> Tensor:
        """(B, ..., K) probabilities."""
        return self.logits.double().softmax(-1)

    @property
    def mean(self) -> Tensor:
        """The most probable category of each entry."""
        return self.logits.argmax(-1)

    def sample(self, draw: Draw) -> Tensor:
        return (self.logits + draw(self.logits, kind="gumbel")).argmax(-1)

    def log_prob(self, x: Tensor, keep: Tensor | float = 1.0) -> Tensor:
        log_p = self.logits.double().log_softmax(-1)
        decided = torch.isfinite(log_p).sum(-1) <= 1
        chosen = torch.where(decided[..., None], 0.0, log_p).gather(-1, x[..., None])[..., 0]
        return per_sample(chosen * keep)

    def kl(self, other: Law) -> Tensor:
        assert isinstance(other, Choice)
        p = self.logits.double().log_softmax(-1)
        q = other.logits.double().log_softmax(-1)
        possible = torch.isfinite(p)
        return per_sample(
            (torch.where(possible, p.exp(), 0.0) * (torch.where(possible, p, 0.0) - torch.where(possible, q, 0.0))).sum(
                -1
            )
        )


@dataclass(frozen=True)
class Product(Law):
    """Independent laws of the parts of a Tree."""

    laws: Tree

    @property
    def mean(self) -> Tree:
        return self.laws.map(lambda law: law.mean)

    def sample(self, draw: Draw) -> Tree:
        def named(k: str) -> Draw:
            return lambda like, tag="", kind="normal": draw(like, f"{tag}/{k}", kind)

        return Tree({k: law.sample(named(k)) for k, law in self.laws.parts.items()})

    def at(self, z: Value | float) -> Tree:
        return self.laws.map(lambda law, part: law.at(part), z)

    def log_prob(self, x: Tree, keep: Tensor | float = 1.0) -> Tensor:
        return torch.stack([law.log_prob(x[k], keep) for k, law in self.laws.parts.items()]).sum(0)

    def kl(self, other: Law) -> Tensor:
        assert isinstance(other, Product)
        return torch.stack([law.kl(other.laws[k]) for k, law in self.laws.parts.items()]).sum(0)
