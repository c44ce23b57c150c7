"""Arguments as a user gives them: under two names, one for all or one each, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import BadInput
from .noise import Keyed, Noise, Stream


def one_of(name: str, value: Any, alias: str, other: Any, default: Any) -> Any:
    """The argument that was given, under its own name or under diffusers' one."""
    if value is not None and other is not None:
        raise BadInput(f"{name}={value!r} and {alias}={other!r}: two names of one argument; give one of them")
    return value if value is not None else other if other is not None else default


def whole(name: str, value: Any) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"{name}={value!r}: must be a whole number, at least 1")
    return value


def noise_of(seed: int | None, generator: torch.Generator | None, noise: Noise | None) -> Noise:
    """The source of noise that one of three arguments names; seed 0 without any."""
    if sum(v is not None for v in (seed, generator, noise)) > 1:
        raise BadInput("seed, generator and noise: more than one was given; give one")
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise BadInput(
                f"generator={type(generator).__name__}: must be one torch.Generator; use `seed` and `samples` for more"
            )
        return Stream(generator)
    if noise is not None:
        return noise
    if isinstance(seed, bool) or not isinstance(seed, (int, type(None))):
        raise BadInput(f"seed={seed!r}: must be a whole number")
    return Keyed(seed or 0)


def fitting(name: str, value: Tensor, rows: int) -> Tensor:
    """`value` with one entry for each of `rows`: as it is, or one for all, or each prompt's for its pictures."""
    if rows % len(value):
        raise BadInput(f"{name}: {len(value)} for {rows} pictures; give one, or one for each prompt")
    return value.repeat_interleave(rows // len(value), 0)


def listed(prompt: Any) -> list[Any]:
    """One prompt or several, as a list."""
    if isinstance(prompt, (list, tuple)):
        if not prompt:
            raise BadInput("prompt: an empty list; give at least one prompt")
        return list(prompt)
    return [prompt]


def spread(name: str, given: list[Any], rows: int) -> list[Any]:
    """One for each row: as given, or one for all, or each prompt's for its pictures."""
    if rows % len(given):
        raise BadInput(f"{name}: {len(given)} for {rows} pictures; give one, or one for each")
    return [p for p in given for _ in range(rows // len(given))]


def identities(samples: Sequence[int] | None, rows: int) -> list[int]:
    """The identity of each of `rows` pictures; 0, 1, 2, ... where none is given."""
    ids = list(range(rows)) if samples is None else [int(s) for s in samples]
    if len(ids) != rows:
        raise BadInput(f"samples={ids}: {len(ids)} identities for {rows} pictures; give one each")
    return ids
