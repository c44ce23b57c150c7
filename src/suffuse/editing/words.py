"""Which tokens of two prompts correspond, from the words that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from functools import lru_cache

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import Refused

Labels = tuple[str, ...]
"""The word of each token with the token's place in it; "" between words."""


def labels(cond: Cond, row: int, length: int, what: object) -> Labels:
    """Labels of the tokens of one row."""
    if not cond.spans:
        raise Refused(
            f"{what}: cond.spans does not say which words tokens are; encode prompts with a model's conditioner"
        )
    found = [""] * length
    for name, (first, end) in cond.spans[row].items():
        for k in range(first, end):
            found[k] = f"{word(name)} {k - first}"
    return tuple(found)


def word(name: str) -> str:
    """The word behind a name in `cond.spans`, where "red#2" is the second "red"."""
    return name.partition("#")[0]


@lru_cache(maxsize=4096)
def alignment(source: Labels, target: Labels, swap: bool = False) -> tuple[Tensor, Tensor]:
    """(S, T) share of each source token's attention that each target token takes, and (T,) True where it takes any.

    Equal words correspond in their order. With `swap`, words in the place of others share the attention of those.
    """
    taken = torch.zeros(len(source), len(target))
    for kind, i, i_end, j, j_end in SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        same_length = i_end - i == j_end - j
        if kind == "equal" or (kind == "replace" and swap and same_length):
            taken[range(i, i_end), range(j, j_end)] = 1.0
        elif kind == "replace" and swap:
            taken[i:i_end, j:j_end] = 1.0 / (j_end - j)
    return taken, taken.any(0)


def tokens_of(words: Sequence[str], spans: Mapping[str, tuple[int, int]], length: int) -> Tensor:
    """(length,) 1 on the tokens of every occurrence of these words."""
    marked = torch.zeros(length)
    for name, (first, end) in spans.items():
        if word(name) in words:
            marked[first:end] = 1.0
    return marked
