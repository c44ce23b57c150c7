"""All data that belongs to a sample and is not the state: text, labels, sources, masks, measurements, sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .errors import BadInput
from .prompt import Stepwise


def _rows(value: Any, rows: Any) -> Any:
    if callable(value) and not hasattr(value, "__getitem__"):
        return lambda t: _rows(value(t), rows)
    return value[rows]


def _kind(value: Any) -> Any:
    """What rows of two entries must share to make one batch; None where they never do."""
    return (value.shape[1:], value.dtype) if isinstance(value, (Tensor, Stepwise)) else None


def _joined(values: Sequence[Any]) -> Any:
    changing = [v for v in values if isinstance(v, Stepwise)]
    return changing[0].cat(values) if changing else torch.cat(list(values))


def _mapped(function: Any, value: Any) -> Any:
    if isinstance(value, Stepwise):
        return value.map(function)
    return function(value) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Cond(Mapping[str, Any]):
    """Named batch-first entries, the alternatives a guidance may ask for, and where the words are.

    `c | d` joins (d wins), `c[rows]` takes rows, `c["text"]` is an entry, `c.alt["null"]` another Cond for the same
    rows. An entry may be a function of t (`Stepwise` is one that joins and splits like a tensor); who asks the network
    calls `c.at(t)` once and everything behind it sees tensors.

    Args:
        entries: name -> tensor (B, ...) or any batched value with `[rows]`.
        alt: path name ("null", "concept:red", "region:0") -> Cond. Missing entries are taken from this Cond.
        spans: for each row, word -> (first, last + 1) token of "text".
    """

    entries: Mapping[str, Any] = field(default_factory=dict)
    alt: Mapping[str, Cond] = field(default_factory=dict)
    spans: Sequence[Mapping[str, tuple[int, int]]] = ()

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.entries[key]
        return Cond(
            {k: _rows(v, key) for k, v in self.entries.items()},
            {k: c[key] for k, c in self.alt.items()},
            [self.spans[i] for i in torch.arange(len(self.spans))[key].tolist()] if self.spans else (),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __bool__(self) -> bool:
        return True

    def __or__(self, other: Mapping[str, Any]) -> Cond:
        alt, spans = (other.alt, other.spans) if isinstance(other, Cond) else ({}, ())
        return Cond({**self.entries, **dict(other)}, {**self.alt, **alt}, spans or self.spans)

    def with_alt(self, **alternatives: Cond) -> Cond:
        """A copy with more alternatives."""
        return replace(self, alt={**self.alt, **alternatives})

    def branch(self, name: str) -> Cond:
        """The alternative `name`, completed by this Cond's own entries (a null drops meaning, never structure)."""
        if name not in self.alt:
            have = ", ".join(self.alt) or "none"
            raise BadInput(f"cond.alt[{name!r}] is missing, it has {have}; give the alternative by cond.with_alt(...)")
        other = self.alt[name]
        return Cond({**self.entries, **other.entries}, self.alt, other.spans)

    def at(self, t: Any) -> Cond:
        """Entries that depend on time, evaluated, those of the alternatives too."""
        if not self._timed:
            return self
        entries = {k: v(t) if callable(v) else v for k, v in self.entries.items()}
        return Cond(entries, {k: c.at(t) for k, c in self.alt.items()}, self.spans)

    @cached_property
    def _timed(self) -> bool:
        return any(map(callable, self.entries.values())) or any(c._timed for c in self.alt.values())

    @property
    def rows(self) -> int | None:
        """Batch size, or None where there are no entries."""
        for v in self.entries.values():
            if hasattr(v, "__len__"):
                return len(v)
        return None

    def repeat(self, n: int) -> Cond:
        """Every row n times in a row: the condition of n pictures a prompt."""
        rows = self.rows
        return self if rows is None else self[torch.arange(rows).repeat_interleave(n)]

    def map(self, function: Any) -> Cond:
        """`function` on every tensor entry, alternatives included (dtype, device)."""
        entries = {k: _mapped(function, v) for k, v in self.entries.items()}
        return Cond(entries, {k: c.map(function) for k, c in self.alt.items()}, self.spans)

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """Rows of several Conds with the same entries, joined."""
        first = conds[0]
        if len(conds) == 1:
            return first
        entries = {k: _joined([c.entries[k] for c in conds]) for k in first.entries}
        shared = set(first.alt).intersection(*(c.alt for c in conds))
        spans = [s for c in conds for s in c.spans or [{}] * (c.rows or 0)] if any(c.spans for c in conds) else ()
        return Cond(entries, {k: Cond.cat([c.alt[k] for c in conds]) for k in first.alt if k in shared}, spans)

    def joins(self, other: Cond) -> bool:
        """True when rows of both fit in one batch."""
        return self.entries.keys() == other.entries.keys() and all(
            _kind(v) is not None and _kind(v) == _kind(other.entries[k]) for k, v in self.entries.items()
        )
