"""Where batches come from: functions of the step, so that a resumed run sees the same data in the same order."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.noise import Noise
from ..core.training import Batch, Roles, Source
from ..core.value import batch_size


@lru_cache(maxsize=8)
def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """The order of n samples in one epoch, a function of its arguments alone."""
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randperm(n, generator=generator)


@dataclass(frozen=True, eq=False)
class Shuffled:
    """A data set in memory, in a new order every epoch; what does not fill a last batch waits for a later epoch.

    Args:
        data: pytree of tensors, N rows.
        cond: conditions, N rows.
        batch: rows of a batch, at most N.
        seed: of the order.
        ids: (N,) int64; None counts from 0.
    """

    data: Any
    cond: Cond
    batch: int
    seed: int = 0
    ids: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 < self.batch <= len(self):
            raise BadInput(f"batch={self.batch} does not fit a data set of {len(self)} samples; use 1 to {len(self)}")

    def __len__(self) -> int:
        return batch_size(self.data)

    def __call__(self, step: int) -> Batch:
        epoch, i = divmod(step, len(self) // self.batch)
        rows = permutation(self.seed, epoch, len(self))[i * self.batch : (i + 1) * self.batch]
        data = pytree.tree_map(lambda leaf: leaf[rows], self.data)
        return Batch(data, self.cond[rows], rows if self.ids is None else self.ids[rows])


class Mix:
    """Batches of two sources in turn, evenly spread; each batch comes whole from one of them.

    Args:
        a: source of most batches.
        b: the other.
        ratio: share of the batches that come from `b`, 0 to 1.
    """

    def __init__(self, a: Source | Iterable[Batch], b: Source | Iterable[Batch], ratio: float):
        if not 0 <= ratio <= 1:
            raise BadInput(f"ratio={ratio} is not a share; use 0 (all from a) to 1 (all from b)")
        self.a, self.b, self.ratio = seekable(a), seekable(b), ratio

    def __call__(self, roles: Roles, noise: Noise, step: int) -> Batch:
        before, after = math.floor(step * self.ratio), math.floor((step + 1) * self.ratio)
        return self.b(roles, noise, before) if after > before else self.a(roles, noise, step - before)


class Skipping:
    """An iterable of batches read as a source: it starts again when it ends, and seeking skips what lies before."""

    def __init__(self, batches: Iterable[Batch]):
        self.batches = batches
        self.iterator = iter(batches)
        self.at = 0
        if self.iterator is batches:
            raise BadInput("source is an iterator, which cannot start again to resume; give source(step) or a list")

    def __call__(self, step: int) -> Batch:
        if step < self.at:
            self.iterator, self.at = iter(self.batches), 0
        while True:
            batch = next(self.iterator, None)
            if batch is None:
                self.iterator = iter(self.batches)
                batch = next(self.iterator, None)
            if batch is None:
                raise BadInput("source holds no batch; give at least one")
            self.at += 1
            if self.at > step:
                return batch


def seekable(source: Source | Iterable[Batch]) -> Callable[[Roles, Noise, int], Batch]:
    """Any source as a function of (roles, noise, step)."""
    read: Callable[..., Batch] = source if callable(source) else Skipping(source)
    wanted = [p for p in inspect.signature(read).parameters.values() if p.default is p.empty]
    if len(wanted) == 3:
        return read
    if len(wanted) == 1:
        return lambda roles, noise, step: read(step)
    raise BadInput(f"source takes {len(wanted)} arguments; it must take (step) or (roles, noise, step)")
