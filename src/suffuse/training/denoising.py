"""The objective of diffusion training, with a slot for each thing that papers change.

One draw a batch: times, noise, pairing of noise and data, condition; one forward; the target is the row of the
prediction that the network returned, so every kind, process, view and adapter trains through the same lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.noise import Noise
from ..core.prediction import Affine, Logits
from ..core.process import Process
from ..core.training import Batch, Loss, Objective, Roles
from ..core.value import Coef, Tree, Value, batch_size, combine, flat, minimum


class Times(ABC):
    """A law of training times."""

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """Times in (0, 1) from uniform numbers u (B,), float64."""


@dataclass(frozen=True)
class UniformTimes(Times):
    """t uniform between `low` and `high`."""

    low: float = 0.001
    high: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * u


@dataclass(frozen=True)
class LogitNormal(Times):
    """t = sigmoid(mean + std z), z ~ N(0, 1) (Esser et al., 2403.03206); mean > 0 favours noise."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        z = torch.special.ndtri(u.clamp(1e-7, 1 - 1e-7))
        return torch.sigmoid(self.mean + self.std * z)


class Pairing(ABC):
    """Which noise goes with which sample of a batch."""

    @abstractmethod
    def __call__(self, x0: Value, eps: Value, draw: Any) -> Value:
        """Noise for each row of x0, made of the independent noises eps; `draw(like, tag, kind)` gives more."""


@dataclass(frozen=True)
class Independent(Pairing):
    """Each sample keeps its own noise."""

    def __call__(self, x0: Value, eps: Value, draw: Any) -> Value:
        return eps


class Weight(ABC):
    """Weight of the squared error at a time."""

    @abstractmethod
    def __call__(self, p: Affine) -> Coef | float:
        """Factor for each row of a prediction."""


@dataclass(frozen=True)
class Constant(Weight):
    """No weighting."""

    def __call__(self, p: Affine) -> Coef | float:
        return 1.0


@dataclass(frozen=True)
class MinSNR(Weight):
    """min(SNR, gamma) in x0-space, whatever the network outputs (Hang et al., 2303.09556)."""

    gamma: float = 5.0

    def __call__(self, p: Affine) -> Coef | float:
        snr = (p.a / p.s) * (p.a / p.s)
        kx, ke, _ = p.row
        # an error d in x0 is an error (k_x - k_e a / s) d in the value
        scale = kx - ke * p.a / p.s
        return minimum(snr, self.gamma) / (scale * scale)


@dataclass(frozen=True)
class Draw:
    """What one training step drew and predicted; extra losses read it."""

    x0: Value
    cond: Cond
    t: Coef
    eps: Value
    x: Value
    pred: Any


class Extra(ABC):
    """A further loss on the same draw, such as feature alignment."""

    name: ClassVar[str]
    scale: float

    def parts(self, roles: Roles) -> nn.ModuleDict:
        """Modules of training alone."""
        return nn.ModuleDict()

    @abstractmethod
    def __call__(self, draw: Draw, parts: nn.ModuleDict) -> Tensor:
        """(B,) loss."""


@dataclass(frozen=True)
class Denoising(Objective):
    """E_t,eps  w(t) | value(x_t, t, c) - (k_x x0 + k_e eps + k_y y) |^2, averaged over entries.

    On a categorical process: cross-entropy of the clean category, averaged over the entries that are not yet decided
    (with a mask those under it, else all).

    `batch.data` is x0, or a mapping with "x0" and a "weight" map that broadcasts to it. On a process with times of its
    own each drawn time is moved up to the next of them.

    Args:
        role: the denoiser to train.
        times: law of t.
        pairing: which noise meets which sample.
        dropout: share of rows whose condition is replaced by `cond.alt["null"]`.
        weight: factor of the squared error.
        extra: further losses on the same draw; those of scale 0 are not computed.

    Reference: Ho et al., 2006.11239; Karras et al., 2206.00364 (the design space).
    """

    role: str = "model"
    times: Times = UniformTimes()
    pairing: Pairing = Independent()
    dropout: float = 0.0
    weight: Weight = Constant()
    extra: tuple[Extra, ...] = ()

    def parts(self, roles: Roles) -> nn.ModuleDict:
        return nn.ModuleDict({e.name: e.parts(roles) for e in self.extra if e.scale})

    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        x0, importance = _read(batch.data)
        ids, n = batch.ids.tolist(), batch_size(x0)

        def draw(like: Any, tag: str = "", kind: str = "normal") -> Any:
            return getattr(noise, kind)(like, ids, tag)

        def corruption(like: Any, tag: str = "", kind: str = "normal") -> Any:
            return eps if kind == "normal" else draw(like, "corrupt" + tag, kind)

        model = roles[self.role]
        assert isinstance(model, Denoiser)
        cond = self._dropped(batch.cond, draw(torch.empty(n, 1), "dropout", "uniform")[:, 0])
        process = model.process.given(cond)
        t = Coef(_on_grid(self.times(draw(torch.empty(n, 1, dtype=torch.float64), "t", "uniform")[:, 0]), process))
        eps = None if _discrete(x0) else self.pairing(x0, draw(x0, "eps"), draw)
        x = process.corrupt(x0, t, corruption)
        pred = model(x, t, cond)
        per_sample = _error(pred, x0, eps, importance, self.weight)
        terms: dict[str, Tensor] = {}
        step = Draw(x0, cond, t, eps, x, pred)
        for extra in self.extra:
            if extra.scale:
                own = parts[extra.name]
                assert isinstance(own, nn.ModuleDict)
                terms[extra.name] = extra(step, own)
                per_sample = per_sample + extra.scale * terms[extra.name]
        return Loss(per_sample, terms, t.tensor(n))

    def _dropped(self, cond: Cond, u: Tensor) -> Cond:
        if not self.dropout:
            return cond
        drop, null = u < self.dropout, cond.branch("null")

        def mixed(entry: Any, other: Any) -> Any:
            if not isinstance(entry, Tensor):
                return entry
            return torch.where(drop.view(-1, *[1] * (entry.ndim - 1)).to(entry.device), other, entry)

        return replace(cond, entries={name: mixed(entry, null[name]) for name, entry in cond.entries.items()})


def _read(data: Any) -> tuple[Value, Tensor | None]:
    """x0 and the weight map of a batch; a state of several parts is a mapping too, but no batch of this kind."""
    if isinstance(data, Mapping) and not isinstance(data, Tree):
        return data["x0"], data.get("weight")
    return data, None


def _on_grid(t: Tensor, process: Process) -> Tensor:
    if process.grid is None:
        return t
    nodes = torch.tensor(sorted(process.grid), dtype=t.dtype)
    return nodes[torch.bucketize(t, nodes).clamp(1, len(nodes) - 1)]


def _discrete(x0: Value) -> bool:
    return isinstance(x0, Tensor) and not x0.is_floating_point()


def _error(pred: Any, x0: Value, eps: Any, importance: Tensor | None, weight: Weight) -> Tensor:
    """(B,) mean over entries."""
    if isinstance(pred, Logits):
        return _cross_entropy(pred, x0, importance)
    kx, ke, ky = pred.row
    target = combine((kx, x0), (ke, eps))
    if pred.y is not None:
        target = target + ky * pred.y
    square = (pred.value - target) ** 2
    if importance is not None:
        square = square * importance
    mean, factor = flat(square).mean(1), weight(pred)
    return mean * (factor.tensor(len(mean)).to(mean) if isinstance(factor, Coef) else factor)


def _cross_entropy(pred: Logits, x0: Tensor, importance: Tensor | None) -> Tensor:
    log_p = pred.logits.float().log_softmax(-1)
    possible = torch.isfinite(log_p)
    loss = -torch.where(possible, log_p, 0.0).gather(-1, x0[..., None])[..., 0]
    if importance is not None:
        loss = loss * importance
    open_ = (possible.sum(-1) > 1).float()
    return (loss * open_).flatten(1).sum(1) / open_.flatten(1).sum(1).clamp(min=1)
