"""Dropout and initial weights as a function of a key, without touching the random state of the caller."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(device: torch.device, *key: int | str) -> Iterator[None]:
    """Inside, torch's global generators are seeded from `key`; afterwards they are as they were.

    Nothing of them needs to be stored in a checkpoint, because each step seeds them anew.
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=7).digest()
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(int.from_bytes(digest, "little"))
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
