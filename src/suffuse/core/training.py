"""What training is made of: a batch, a loss per sample, an objective, and what may be put around it.

A training run names its networks (roles), says which objective trains which of them (phases), and which copies trail
behind (followers). Every random number is a function of (seed, step, sample), so that a run can be stopped anywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .cond import Cond
from .errors import nearest
from .noise import Noise


class Roles(Mapping[str, nn.Module]):
    """The networks of a training run by name: `roles["student"]` or `roles.student`."""

    def __init__(self, modules: Mapping[str, nn.Module]):
        self._modules = dict(modules)

    def __getitem__(self, name: str) -> nn.Module:
        return self._modules[name]

    def __getattr__(self, name: str) -> nn.Module:
        if name.startswith("_") or name not in self._modules:
            known = "" if name.startswith("_") else f"; {nearest(name, self._modules)}"
            raise AttributeError(f"there is no role {name!r}{known}")
        return self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


@dataclass(frozen=True)
class Batch:
    """Samples of one training step; `batch[rows]` are the same rows of every part.

    Args:
        data: any pytree of tensors, batch first.
        cond: what the samples are conditioned on.
        ids: (B,) int64, identity of each sample, stable over epochs: fixed corruptions, masks and groups hang on it.
    """

    data: Any
    cond: Cond
    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Any) -> Batch:
        data = pytree.tree_map(lambda leaf: leaf[rows], self.data)
        return Batch(data, self.cond[rows], self.ids[rows])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; the ids stay where they are."""
        data = pytree.tree_map(lambda leaf: leaf.to(device), self.data)
        return Batch(data, self.cond.map(lambda entry: entry.to(device)), self.ids)


@dataclass(frozen=True)
class Loss:
    """A loss for each sample, before anything is averaged.

    Args:
        per_sample: (B,), what is minimised.
        terms: named summands, (B,) or (), reported in the log and available to reducers.
        t: (B, ...), the times at which the samples were corrupted, for reducers that group by noise level.
    """

    per_sample: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    t: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Mean over the batch."""
        return self.per_sample.mean()


class Objective(ABC):
    """A loss as a function of the networks and a batch."""

    @abstractmethod
    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        """Loss of one batch.

        Args:
            roles: the networks by name.
            batch: the samples.
            noise: the step's noise, to be drawn with `batch.ids` as samples; it differs from step to step.
            parts: what `parts(roles)` made.
        """

    def parts(self, roles: Roles) -> nn.ModuleDict:
        """Modules of training alone (projector, discriminator): optimised with the phase, saved, never exported."""
        return nn.ModuleDict()


class Reducer(ABC):
    """Turns the losses of a batch into gradients; owns the backward pass."""

    @abstractmethod
    def backward(self, loss: Loss, params: Sequence[Tensor], parts: nn.ModuleDict) -> None:
        """Leave the gradients in `.grad` of `params`; they are empty on entry.

        Under a shard the loss covers the rows of this process only; the gradients are averaged afterwards.
        """

    def parts(self) -> nn.ModuleDict:
        """The reducer's own parameters and buffers (log-variances, task weights): optimised with the phase, saved."""
        return nn.ModuleDict()


@dataclass(frozen=True)
class Mean(Reducer):
    """Gradient of the mean over the batch."""

    def backward(self, loss: Loss, params: Sequence[Tensor], parts: nn.ModuleDict) -> None:
        loss.total.backward()


class Follower(ABC):
    """A copy of a role that trails behind it: average, target network, moving reference, opponent.

    The copy is itself a role, under the follower's name; it is never trained. It shares with its original whatever
    no phase trains.
    """

    of: str

    @abstractmethod
    def update(self, own: Sequence[Tensor], of: Sequence[Tensor], step: int) -> None:
        """Move the copy's tensors, in place, after a training step.

        Args:
            own: parameters and buffers of the copy.
            of: the tensors of the original in the same order.
            step: 0 after the first step.
        """


class Optimiser(ABC):
    """The recipe of an optimiser, as a value."""

    @abstractmethod
    def build(self, params: Sequence[Tensor]) -> torch.optim.Optimizer:
        """A fresh optimiser of these parameters."""

    @abstractmethod
    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, of `steps` in all."""


@dataclass(frozen=True)
class Phase:
    """One objective, what it trains, and how.

    Args:
        objective: the loss.
        trains: the role, or roles, whose parameters move.
        optim: the optimiser; None is `AdamW()`.
        every: run in one step of so many.
        times: runs in that step, each with noise of its own on the same batch.
        reduce: from losses to gradients.
        clip: largest norm of the gradient of all the phase's parameters; None leaves it.
    """

    objective: Objective
    trains: str | tuple[str, ...] = "model"
    optim: Optimiser | None = None
    every: int = 1
    times: int = 1
    reduce: Reducer = field(default_factory=Mean)
    clip: float | None = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """The roles that this phase trains, as a tuple."""
        return (self.trains,) if isinstance(self.trains, str) else self.trains


Source = Callable[..., Batch]
"""source(step) or source(roles, noise, step); an iterable of batches will do where resuming may skip."""
