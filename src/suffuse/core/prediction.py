"""What a network says about a noisy state, in one form whatever it was trained to output.

A kind of prediction is a row (k_x, k_e, k_y): the network's value is  k_x x0 + k_e eps + k_y y.  Together with
x_t = a x0 + b + s eps  that is two equations, solved once; the same row is the training target.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .value import Coef, Number, Value, combine, put, where

if TYPE_CHECKING:
    from .process import Gaussian

ZERO, ONE = Coef(0.0), Coef(1.0)

Row: TypeAlias = tuple[Coef, Coef, Coef]
"""(k_x, k_e, k_y)."""


@dataclass(frozen=True)
class Kind:
    """A kind of prediction: `row(process, t) -> (k_x, k_e, k_y)`, Coefs. Equal by name."""

    name: str
    row: Callable[[Gaussian, Coef], Row] = field(compare=False, repr=False)


# Functions with a name: networks hold their kind, and pickle finds functions by name.
def _eps(process: Gaussian, t: Coef) -> Row:
    return ZERO, ONE, ZERO


def _x0(process: Gaussian, t: Coef) -> Row:
    return ONE, ZERO, ZERO


def _v(process: Gaussian, t: Coef) -> Row:
    return -process.sigma(t), process.alpha(t), ZERO


def _flow(process: Gaussian, t: Coef) -> Row:
    return *process.slope(t), ZERO


def _score(process: Gaussian, t: Coef) -> Row:
    return ZERO, -1.0 / process.sigma(t), ZERO


def _residual(process: Gaussian, t: Coef) -> Row:
    return -ONE, ZERO, ONE


EPS, X0, V, FLOW = Kind("eps", _eps), Kind("x0", _x0), Kind("v", _v), Kind("flow", _flow)
SCORE, RESIDUAL = Kind("score", _score), Kind("residual", _residual)
KINDS = {k.name: k for k in (EPS, X0, V, FLOW, SCORE, RESIDUAL)}


class Prediction(ABC):
    """A guess of the clean state behind each row; `x0` is that guess, in the state's own form.

    Kinds of prediction are dataclasses, and pytrees of their fields: kept in memory, and joined by rows.
    """

    x0: Any

    def __init_subclass__(cls) -> None:
        def parts(p: Any) -> tuple[list[Any], None]:
            return [getattr(p, f.name) for f in fields(p)], None

        pytree.register_pytree_node(cls, parts, lambda values, _: cls(*values))

    @abstractmethod
    def mix(self, weights: Sequence[Any], others: Sequence[Any]) -> Any:
        """sum_i weights[i] * others[i] in the natural coordinates (value, logits); self gives the frame."""

    @abstractmethod
    def __getitem__(self, rows: Any) -> Any:
        """The same prediction for some rows."""

    @abstractmethod
    def put(self, rows: Any, other: Any) -> Any:
        """A copy in which `rows` are those of `other`."""


def _is(row: Row, kx: float, ke: float) -> bool:
    """True when the row is this one for every sample: the value itself is wanted, and no arithmetic needed."""
    return row[0].shared and row[1].shared and (row[0].d, row[1].d) == (kx, ke)


def _weights(*numbers: Number) -> tuple[Coef, Coef]:
    """Factors of z and of the output in c_x x0 + c_e eps, where z = a x0 + s eps and output = k_x x0 + k_e eps."""
    a, s, kx, ke, c_x, c_e = map(Coef, numbers)
    det = a * ke - s * kx
    of_z, of_value = (c_x * ke - c_e * kx) / det, (c_e * a - c_x * s) / det
    if isinstance(det.d, float) and 0.0 < abs(det.d) < math.inf:
        return of_z, of_value
    told = (abs(det) > 0.0) & (abs(det) < math.inf)
    return where(told, of_z, c_x / a), where(told, of_value, ZERO)


_known_weights = lru_cache(maxsize=4096)(_weights)
"""The same for numbers shared by all rows: runs on one grid ask for the same few again and again."""


@dataclass(frozen=True)
class Affine(Prediction):
    """Prediction of a Gaussian process at x_t = a x0 + b + s eps.

    Attributes:
        x: the state (B, ...).
        a, s: Coefs.
        value: what the network returned.
        row: (k_x, k_e, k_y), see the module.
        b: offset of the process at t, or None for 0.
        y: the second end point that `k_y` multiplies, or None.
    """

    x: Value
    a: Coef
    s: Coef
    value: Value
    row: Row
    b: Value | None = None
    y: Value | None = None

    @property
    def _told(self) -> Value:
        """k_x x0 + k_e eps, what the output says of both."""
        return self.value if self.y is None else self.value - self.row[2] * self.y

    @cached_property
    def x0(self) -> Value:
        """Predicted clean state, (k_e z - s value) / det with z = x - b."""
        return self._told if _is(self.row, 1.0, 0.0) else self.combined(ONE, ZERO)

    @cached_property
    def eps(self) -> Value:
        """Predicted noise, (a value - k_x z) / det."""
        return self._told if _is(self.row, 0.0, 1.0) else self.combined(ZERO, ONE)

    def combined(self, c_x: Coef, c_e: Coef) -> Value:
        """c_x x0 + c_e eps, from state and output at once: what a step to another time needs of both.

        A state without noise is the data, whatever the output, and tells nothing of eps: where the output does not
        either (kind x0 at t = 0), eps is its mean, 0.
        """
        kx, ke, _ = self.row
        numbers = self.a.d, self.s.d, kx.d, ke.d, c_x.d, c_e.d
        solve = _known_weights if set(map(type, numbers)) == {float} else _weights
        of_z, of_value = solve(*numbers)
        return combine((of_z, self.x if self.b is None else self.x - self.b), (of_value, self._told))

    @property
    def score(self) -> Value:
        """Gradient of log q(x_t), -eps / s."""
        return -1.0 / self.s * self.eps

    def with_(self, *, eps: Value | None = None, x0: Value | None = None) -> Affine:
        """The prediction at the same state that has this noise, or this clean state."""
        if (eps is None) == (x0 is None):
            raise ValueError("give exactly one of eps and x0")
        value, row = (eps, (ZERO, ONE, ZERO)) if x0 is None else (x0, (ONE, ZERO, ZERO))
        return replace(self, value=value, row=row, y=None)

    def shift(self, eps: Value) -> Affine:
        """The prediction with `eps` added to its noise."""
        return self.with_(eps=self.eps + eps)

    def add(self, delta: Value, of: Affine) -> Affine:
        """The prediction with `delta`, a difference of outputs of the kind of `of`, added to it.

        Differences of all kinds are proportional, by one number a sample: a guidance may form, mask and weigh them in
        the network's own output, where nothing is lost at either end of the process.
        """
        if all(m is n or (m.shared and n.shared and m.d == n.d) for m, n in zip(self.row, of.row, strict=True)):
            return replace(self, value=self.value + delta)
        own, theirs = (p.a * p.row[1] - p.s * p.row[0] for p in (self, of))
        return replace(self, value=combine((1.0, self.value), (own / theirs, delta)))

    def rebase(self, x: Value) -> Affine:
        """The same noise seen from another state `x` at the same time."""
        return replace(self.with_(eps=self.eps), x=x)

    def mix(self, weights: Sequence[Any], others: Sequence[Affine]) -> Affine:
        return replace(self, value=combine(*((w, p.value) for w, p in zip(weights, others, strict=True))))

    def __getitem__(self, rows: Any) -> Affine:
        def some(v: Any) -> Any:
            return None if v is None else v[rows]

        kx, ke, ky = self.row
        return Affine(self.x[rows], self.a[rows], self.s[rows], self.value[rows], (kx[rows], ke[rows], ky[rows]),
                      some(self.b), some(self.y))  # fmt: skip

    def put(self, rows: Any, other: Affine) -> Affine:
        return replace(self, value=put(self.value, rows, other.value))


@dataclass(frozen=True)
class Logits(Prediction):
    """Prediction of a categorical process: `logits` (B, ..., K) of the clean category, -inf where impossible."""

    x: Tensor
    logits: Tensor

    @cached_property
    def probs(self) -> Tensor:
        """(B, ..., K) float64 probabilities."""
        return self.logits.double().softmax(-1)

    @property
    def x0(self) -> Tensor:
        """The most probable clean category of each entry."""
        return self.logits.argmax(-1)

    def mix(self, weights: Sequence[Any], others: Sequence[Logits]) -> Logits:
        mixed = combine(*((w, torch.nan_to_num(p.logits, neginf=0.0)) for w, p in zip(weights, others, strict=True)))
        return replace(self, logits=mixed.masked_fill(torch.isneginf(self.logits), -torch.inf))

    def __getitem__(self, rows: Any) -> Logits:
        return Logits(self.x[rows], self.logits[rows])

    def put(self, rows: Any, other: Logits) -> Logits:
        return replace(self, logits=put(self.logits, rows, other.logits))
