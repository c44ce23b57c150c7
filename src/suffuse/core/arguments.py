"""Arguments as a user gives them: under two names, one for all or one each, checked."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import BadInput
from .grid import Spacing
from .guidance import Guidance
from .hook import Hook
from .noise import Keyed, Noise, PerSample, Stream
from .patch import Adapter, Patch
from .sampler import Sampler

PARTS: dict[str, tuple[Any, str]] = {
    "sampler": (Sampler, "DDIM()"),
    "spacing": (Spacing, "Karras()"),
    "guidance": (Guidance, "CFG(5)"),
    "patches": ((Patch, Adapter), "DeepCache()"),
    "hooks": (Hook, "MaskedBlend()"),
}
"""Argument -> what it takes, and an example."""

LARGEST = 2**31 - 1


def check_parts(**given: Any) -> None:
    """Refuse what is no plug-in of the kind that its argument takes; None is none."""
    for name, value in given.items():
        kinds, example = PARTS[name]
        several = name in ("patches", "hooks")
        if several and (isinstance(value, str) or not isinstance(value, Sequence)):
            raise BadInput(f"{name}={_short(value)}: give a list, such as [{example}]")
        for part in value if several else [value]:
            if not isinstance(part, (kinds, type(None))) or (several and part is None):
                raise BadInput(f"{name}={_short(part)}: must be a value such as {example}; see `suffuse methods`")


def _short(value: Any) -> str:
    return " ".join(f"{value!r:.60}".split())


def integer(name: str, value: Any) -> int:
    """A whole number, NumPy's too."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise BadInput(f"{name}={value!r}: must be a whole number")
    return operator.index(value)


def one_of(name: str, value: Any, alias: str, other: Any, default: Any) -> Any:
    """The argument that was given, under its own name or under diffusers' one."""
    if value is not None and other is not None:
        raise BadInput(f"{name}={value!r} and {alias}={other!r}: two names of one argument; give one of them")
    return value if value is not None else other if other is not None else default


def whole(name: str, value: Any) -> int:
    """A whole number of at least 1 that a 32-bit integer holds; what is larger fits no machine."""
    number = integer(name, value)
    if not 1 <= number <= LARGEST:
        raise BadInput(f"{name}={value!r}: must be a whole number from 1 to {LARGEST}")
    return number


def noise_of(
    seed: int | Sequence[int] | None, generator: torch.Generator | Sequence[torch.Generator] | None,
    noise: Noise | None, ids: Sequence[int],
) -> Noise:  # fmt: skip
    """The source of noise of these samples that one of three arguments names; seed 0 without any."""
    if sum(v is not None for v in (seed, generator, noise)) > 1:
        raise BadInput("seed, generator and noise: more than one was given; give one")
    if noise is not None and not isinstance(noise, Noise):
        raise BadInput(
            f"noise={_short(noise)}: must be a source of noise such as Keyed(3); give start states as latents"
        )
    if noise is not None:
        return noise
    name, given = ("generator", generator) if generator is not None else ("seed", 0 if seed is None else seed)
    if not isinstance(given, (list, tuple)):
        return _source(name, given)
    if len(given) != len(ids):
        raise BadInput(f"{name}: {len(given)} for {len(ids)} pictures; give one, or one for each")
    return PerSample({k: _source(name, each) for k, each in zip(ids, given, strict=True)})


def _source(name: str, given: Any) -> Noise:
    if name == "seed":
        return Keyed(integer(name, given))
    if not isinstance(given, torch.Generator):
        raise BadInput(f"{name}={_short(given)}: must be a torch.Generator, or a list of one for each picture")
    return Stream(given)


def fitting(name: str, value: Tensor, rows: int) -> Tensor:
    """`value` with one entry for each of `rows`: as it is, or one for all, or each prompt's for its pictures."""
    if rows % len(value):
        raise BadInput(f"{name}: {len(value)} for {rows} pictures; give one, or one for each prompt")
    return value.repeat_interleave(rows // len(value), 0)


def start_states(latents: Tensor, shape: Sequence[int], rows: int) -> Tensor:
    """(rows, *shape) of states that were given, one for each row, or each prompt's for its pictures."""
    if tuple(latents.shape[1:]) != tuple(shape):
        raise BadInput(f"latents: shape {tuple(latents.shape)}; this run needs {(rows, *shape)}")
    return fitting("latents", latents, rows).float()


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
