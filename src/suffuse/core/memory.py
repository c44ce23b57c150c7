"""What a run remembers, by owner and by row.

A row is (path, sample): path names the branch of the evaluation ("cond", "null", "tile3/null"), sample the picture.
Values are batch-first pytrees. They are replaced, never written in place, so a snapshot is the entries themselves and
repeating a step, looking ahead or going back needs no copy. A row that was never stored is a miss, also when other
rows of the same batch were stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .value import Coef

Row = tuple[str, int]
Rows = tuple[Row, ...]


Path = str | tuple[str, ...]
"""The branch of an evaluation: one for all rows, or one for each."""


def rows_of(path: Path, samples: Sequence[int]) -> Rows:
    """The rows of some samples on their path."""
    paths = (path,) * len(samples) if isinstance(path, str) else path
    return tuple([(p, int(s)) for p, s in zip(paths, samples, strict=True)])


def below(path: Path, name: str) -> Path:
    """The branch `name` of a branch."""
    if not isinstance(path, str):
        return tuple(f"{p}/{name}" if p and name else p or name for p in path)
    return f"{path}/{name}" if path and name else path or name


def take(value: Any, rows: Any) -> Any:
    """Rows of every tensor and coefficient of a batch-first pytree."""
    return mapped(lambda v: v[rows] if isinstance(v, (Tensor, Coef)) else v, value)


def join(values: Sequence[Any]) -> Any:
    """Batch-first pytrees of one structure, concatenated; what is no tensor or coefficient is taken from the first."""
    if len(values) == 1:
        return values[0]
    columns, spec = zip(*(pytree.tree_flatten(v) for v in values), strict=True)
    sizes = [next((len(v) for v in leaves if isinstance(v, Tensor)), 1) for leaves in columns]

    def one(column: Sequence[Any]) -> Any:
        first = column[0]
        return (
            torch.cat(list(column))
            if isinstance(first, Tensor)
            else Coef.cat(column, sizes)
            if isinstance(first, Coef)
            else first
        )

    return pytree.tree_unflatten([one(c) for c in zip(*columns, strict=True)], spec[0])


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of every leaf of a pytree; of a tensor, as most values are, at once."""
    return function(value) if isinstance(value, Tensor) else pytree.tree_map(function, value)


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


@dataclass(frozen=True)
class Block:
    """Values stored together: `value` has one leading entry for each of `rows`; `step` says when."""

    rows: Rows
    value: Any
    step: int


class Memory:
    """All that plug-ins remember in one run; `entries` is an immutable snapshot, {owner and name: blocks}."""

    __slots__ = ("entries",)

    def __init__(self, entries: dict[Any, tuple[Block, ...]] | None = None):
        self.entries = entries or {}

    def find(self, key: Any, rows: Rows) -> Any:
        """The stored value for exactly these rows in this order, or None if one of them is missing."""
        blocks = self.entries.get(key, ())
        for block in blocks:
            if block.rows == rows:
                return block.value
        where = {row: (b, i) for b, block in enumerate(blocks) for i, row in enumerate(block.rows)}
        if not rows or any(row not in where for row in rows):
            return None
        used = sorted({where[row][0] for row in rows})
        start = dict(
            zip(used, [0, *torch.tensor([len(blocks[b].rows) for b in used]).cumsum(0).tolist()], strict=False)
        )
        index = torch.tensor([start[b] + i for b, i in (where[row] for row in rows)])
        return take(join([blocks[b].value for b in used]), index)

    def store(self, key: Any, rows: Rows, value: Any, step: int) -> None:
        """Replace the value of these rows; other rows under the key stay."""
        new, kept = set(rows), []
        for block in self.entries.get(key, ()):
            if block.rows == rows or new.issuperset(block.rows):
                continue
            stays = [i for i, row in enumerate(block.rows) if row not in new]
            if len(stays) < len(block.rows):
                block = Block(tuple(block.rows[i] for i in stays), take(block.value, torch.tensor(stays)), block.step)
            kept.append(block)
        self.entries = {**self.entries, key: (*kept, Block(rows, mapped(_detached, value), step))}

    def held(self, key: Any, rows: Rows) -> list[bool]:
        """For each row, whether it was stored."""
        blocks = self.entries.get(key, ())
        if any(block.rows == rows for block in blocks):
            return [True] * len(rows)
        stored = {row for block in blocks for row in block.rows}
        return [row in stored for row in rows]

    def age(self, key: Any, rows: Rows, step: int) -> int | None:
        """Steps since the oldest of these rows was stored, or None if one is missing."""
        steps = {row: block.step for block in self.entries.get(key, ()) for row in block.rows}
        return None if any(row not in steps for row in rows) else step - min(steps[row] for row in rows)

    def of_samples(self, samples: Sequence[int]) -> Memory:
        """The part that belongs to some samples."""
        wanted, out = set(samples), {}
        for key, blocks in self.entries.items():
            cut = []
            for block in blocks:
                index = [i for i, (_, s) in enumerate(block.rows) if s in wanted]
                if index:
                    cut.append(
                        Block(tuple(block.rows[i] for i in index), take(block.value, torch.tensor(index)), block.step)
                    )
            out[key] = tuple(cut)
        return Memory(out)

    @staticmethod
    def cat(memories: Sequence[Memory]) -> Memory:
        """Memories of runs over different samples, joined."""
        out: dict[Any, tuple[Block, ...]] = {}
        for memory in memories:
            for key, blocks in memory.entries.items():
                out[key] = out.get(key, ()) + blocks
        return Memory(out)


@dataclass(frozen=True)
class Scope:
    """The memory of one plug-in, at one site, for the rows at hand: `scope[name] = value`, `scope.get(name)`."""

    memory: Memory
    owner: Any
    rows: Rows
    step: int

    def _key(self, name: str) -> Any:
        return (self.owner, name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value stored for these rows, or `default` when any of them is missing."""
        value = self.memory.find(self._key(name), self.rows)
        return default if value is None else value

    def __getitem__(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self.memory.store(self._key(name), self.rows, value, self.step)

    def __contains__(self, name: str) -> bool:
        return all(self.held(name))

    def held(self, name: str) -> list[bool]:
        """For each row, whether `name` was stored for it."""
        return self.memory.held(self._key(name), self.rows)

    def age(self, name: str) -> int | None:
        """Steps since `name` was stored for these rows; None if it was not."""
        return self.memory.age(self._key(name), self.rows, self.step)

    @property
    def shared(self) -> Scope:
        """The same memory across paths: rows are samples alone."""
        return Scope(self.memory, self.owner, rows_of("", [s for _, s in self.rows]), self.step)

    def sub(self, name: Any) -> Scope:
        """The memory of a part of this plug-in."""
        return Scope(self.memory, (self.owner, name), self.rows, self.step)
