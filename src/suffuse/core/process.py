"""How data is corrupted, as three laws: marginal q(x_t | x0), prior q(x_1) and posterior q(x_s | x_t, prediction).

Time runs from t = 0 (data) to t = 1 (noise); it is a Coef, so every sample, token or pixel may have its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from .cond import Cond
from .errors import Refused
from .grid import Grid
from .law import Choice, Delta, Draw, Law, Normal, Product
from .prediction import Affine, Kind, Logits, Prediction
from .value import Coef, Tree, Value, combine, log, sqrt, where


def remembered(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A method of one number (a Coef, or a count) that keeps what it returned: runs ask for the same few again.

    For what a process does not learn; coefficients that differ between rows are computed each time.
    """
    name = f"_{function.__name__}_of"

    @wraps(function)
    def value(self: Any, number: Any) -> Any:
        key = number.d if type(number) is Coef else number
        if isinstance(key, Tensor):
            return function(self, number)
        known = self.__dict__.setdefault(name, {})
        if key not in known:
            if len(known) == 4096:
                known.clear()
            known[key] = function(self, number)
        return known[key]

    return value


class Process(ABC):
    """A corruption process. A frozen dataclass, or an nn.Module where the schedule learns."""

    def given(self, cond: Cond) -> Process:
        """The process for these conditions: takes end points, maps and sizes out of `cond`. Once a run or batch."""
        return self

    @abstractmethod
    def marginal(self, x0: Value, t: Coef) -> Law:
        """q(x_t | x0)."""

    @abstractmethod
    def prior(self, like: Value) -> Law:
        """q(x_1), the law that a run starts from."""

    @abstractmethod
    def posterior(self, x: Value, p: Any, t: Coef, s: Coef, eta: float = 1.0) -> Law:
        """q(x_s | x_t, prediction) for any stride. s == t leaves the state alone, s > t corrupts further."""

    @abstractmethod
    def predict(self, x: Value, t: Coef, value: Value, kind: Any) -> Prediction:
        """Read a network's output of this kind at state x and time t."""

    def offset(self, t: Coef) -> Value | None:
        """b(t), the part of the mean that is not data, or None."""
        return None

    def timestep(self, t: Coef) -> Coef:
        """What networks trained on this process are told instead of t."""
        return 1000.0 * t

    def scale(self, t: Coef) -> Coef | None:
        """Factor on the state before a network trained on this process sees it, or None for 1."""
        return None

    def even(self, n: int) -> Tensor:
        """(n + 1,) times from 1 to 0, as even as the process has them: those of a run without a spacing."""
        return torch.linspace(1, 0, n + 1, dtype=torch.float64)

    @remembered
    def steps(self, n: int) -> Grid:
        """The grid of a run of n steps without a spacing."""
        return Grid(self.even(n))

    @property
    def grid(self) -> Sequence[float] | None:
        """The only times at which the process may run, 1 down to 0, or None where it may be respaced."""
        return None

    def corrupt(self, x0: Value, t: Coef, draw: Draw) -> Value:
        """A draw of the marginal."""
        return self.marginal(x0, t).sample(draw)


class Gaussian(Process):
    """x_t = alpha(t) x0 + offset(t) + sigma(t) eps with eps ~ N(0, I), entry by entry."""

    @abstractmethod
    def alpha(self, t: Coef) -> Coef:
        """Factor of the data at t."""

    @abstractmethod
    def sigma(self, t: Coef) -> Coef:
        """Factor of the noise at t."""

    @abstractmethod
    def time(self, rho: Coef) -> Coef:
        """The t at which sigma / alpha is `rho`."""

    def slope(self, t: Coef) -> tuple[Coef, Coef]:
        """(alpha'(t), sigma'(t)), what a flow velocity is made of."""
        raise Refused(f"{type(self).__name__} has no velocity; use a prediction of kind eps, x0 or v")

    def rho(self, t: Coef) -> Coef:
        """Noise-to-signal ratio sigma / alpha: "sigma" of the variance-exploding literature."""
        return self.sigma(t) / self.alpha(t)

    def logsnr(self, t: Coef) -> Coef:
        """lambda(t) = log(alpha / sigma), half the log signal-to-noise ratio."""
        return log(self.alpha(t)) - log(self.sigma(t))

    def reverse_std(self, t: Coef, s: Coef) -> Coef:
        """Standard deviation of q(x_s | x_t, x0); for s > t that of the forward kernel q(x_s | x_t)."""
        ratio = self.rho(s) / self.rho(t)
        down = where(ratio <= 1.0, ratio, 1.0 / ratio)
        return where(ratio == 1.0, 0.0, self.sigma(s) * sqrt(1.0 - down * down))

    def marginal(self, x0: Value, t: Coef) -> Law:
        mean, b = self.alpha(t) * x0, self.offset(t)
        return Normal(mean if b is None else mean + b, self.sigma(t))

    def prior(self, like: Value) -> Law:
        one, b = Coef(1.0), self.offset(Coef(1.0))
        return Normal(torch.zeros_like(like) if b is None else b.expand_as(like), self.sigma(one))

    def posterior(self, x: Value, p: Affine, t: Coef, s: Coef, eta: float = 1.0) -> Law:
        """N(alpha_s x0 + b_s + sqrt(sigma_s^2 - std^2) eps, std^2) with std = eta reverse_std(t, s)."""
        b = self.offset(s)
        if eta == 0.0:
            mean = p.combined(self.alpha(s), self.sigma(s))
            return Delta(mean if b is None else mean + b)
        std = eta * self.reverse_std(t, s)
        left = self.sigma(s) * self.sigma(s) - std * std
        mean = p.combined(self.alpha(s), sqrt(where(left > 0.0, left, 0.0)))
        return Normal(mean if b is None else mean + b, std)

    def predict(self, x: Value, t: Coef, value: Value, kind: Kind) -> Affine:
        return Affine(x, self.alpha(t), self.sigma(t), value, kind.row(self, t), self.offset(t), self.end(t))

    def end(self, t: Coef) -> Value | None:
        """The second end point y that the prediction's row may contain, or None."""
        return None

    def target(self, x0: Value, eps: Value, t: Coef, kind: Kind) -> Value:
        """What a network of this kind should output: k_x x0 + k_e eps + k_y y."""
        kx, ke, ky = kind.row(self, t)
        value, y = combine((kx, x0), (ke, eps)), self.end(t)
        return value if y is None else value + ky * y


@dataclass(frozen=True)
class Parts(Process):
    """A process for each part of a Tree; kinds may be mixed (positions and categories, tokens and latents)."""

    parts: Tree

    def given(self, cond: Cond) -> Process:
        return Parts(self.parts.map(lambda p: p.given(cond)))

    def marginal(self, x0: Value, t: Coef) -> Law:
        return Product(self.parts.map(lambda p, v: p.marginal(v, t), x0))

    def prior(self, like: Value) -> Law:
        return Product(self.parts.map(lambda p, v: p.prior(v), like))

    def posterior(self, x: Value, p: Any, t: Coef, s: Coef, eta: float = 1.0) -> Law:
        return Product(Tree({k: q.posterior(x[k], p[k], t, s, eta) for k, q in self.parts.parts.items()}))

    def predict(self, x: Value, t: Coef, value: Value, kind: Any) -> Any:
        return Tree({k: q.predict(x[k], t, value[k], kind[k]) for k, q in self.parts.parts.items()})


class Categorical(Process):
    """Each entry keeps its category with probability keep(t), else is replaced: by a mask, or by a draw from `limit`.

    A state is an integer tensor over K categories; with a mask the last index K - 1 is the mask.
    """

    K: int

    @abstractmethod
    def keep(self, t: Coef) -> Coef:
        """Probability that an entry is still its clean category at t."""

    @abstractmethod
    def limit(self, like: Tensor) -> Tensor:
        """(K,) float64 law of a replaced entry."""

    def marginal(self, x0: Tensor, t: Coef) -> Law:
        onehot = torch.nn.functional.one_hot(x0, self.K).double()
        return Choice(
            torch.log(combine((self.keep(t), onehot), (1.0 - self.keep(t), self.limit(x0).expand_as(onehot))))
        )

    def prior(self, like: Tensor) -> Law:
        return Choice(torch.log(self.limit(like)).expand(*like.shape, self.K))

    def posterior(self, x: Tensor, p: Logits, t: Coef, s: Coef, eta: float = 1.0) -> Law:
        """sum_c p(c) q(x_s | x_t, x0 = c), in O(K): between s and t an entry stays with keep_t / keep_s."""
        like = p.probs
        keep_s, stay = self.keep(s), self.keep(t) / self.keep(s)
        stay = where(self.keep(s) > 0.0, stay, 0.0)
        pi, onehot = self.limit(x).to(like), torch.nn.functional.one_hot(x, self.K).to(like)
        # q(x_t = x | x_s = j), over j; and q(x_t = x | x0 = c), over c
        step = combine((stay, onehot), (1.0 - stay, pi[x][..., None].expand_as(like)))
        reach = combine((self.keep(t), onehot), (1.0 - self.keep(t), pi[x][..., None].expand_as(like)))
        weight = torch.where(reach > 0, like / torch.where(reach > 0, reach, 1.0), 0.0)
        mixed = combine((keep_s, weight), (1.0 - keep_s, weight.sum(-1, keepdim=True) * pi.expand_as(like)))
        return Choice(torch.log(step * mixed))

    def predict(self, x: Tensor, t: Coef, value: Tensor, kind: Any = None) -> Logits:
        return Logits(x, value)
