"""Prompts that are more than a text, and entries of a Cond that follow them from step to step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .errors import BadInput
from .grid import Grid
from .value import Coef


class PromptValue:
    """A prompt that is more than a text: a frozen, hashable value. One that is no `Mixture`, pieces read themselves."""


class Mixture(PromptValue, ABC):
    """A prompt made of others: their average, which may change from step to step."""

    varies: ClassVar[bool] = False
    """True where the shares depend on the step."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Any, ...]:
        """The prompts that it is made of."""

    @abstractmethod
    def shares(self, i: int, n: int) -> Sequence[float]:
        """The share of each part in step i of n; they sum to 1."""


@dataclass(frozen=True, eq=False)
class Encoded(PromptValue):
    """A prompt that was encoded before, by this model or elsewhere: what diffusers calls prompt_embeds.

    Args:
        entries: what the text encoders make of it, without the axis of the batch: "text" (tokens, width), and what else
            the model reads: "pooled" (width,), "text_mask" (tokens,).
        spans: which tokens its words became, for plug-ins that ask for words.

    Example:
        >>> said, against = model.encode_prompt("a red circle"), model.encode_prompt("blurred")
        >>> model.generate(said, negative_prompt=against)
        >>> model.generate(Encoded({"text": prompt_embeds[0], "pooled": pooled_prompt_embeds[0]}))
    """

    entries: Mapping[str, Tensor]
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def simple(prompt: Any) -> list[Any]:
    """The prompts below all mixtures, each once."""
    if not isinstance(prompt, Mixture):
        return [prompt]
    return list(dict.fromkeys(leaf for part in prompt.parts for leaf in simple(part)))


def varies(prompt: Any) -> bool:
    """True where a prompt is not the same in all steps."""
    return isinstance(prompt, Mixture) and (prompt.varies or any(map(varies, prompt.parts)))


def share_table(prompts: Sequence[Any], leaves: Sequence[Any], n: int) -> Tensor:
    """(B, n, leaves): what share each leaf has of each prompt in each of n steps."""
    table = torch.zeros(len(prompts), n, len(leaves))
    where = {leaf: k for k, leaf in enumerate(leaves)}
    for row, prompt in enumerate(prompts):
        for i in range(n):
            for leaf, share in _shares(prompt, i, n):
                table[row, i, where[leaf]] += share
    return table


def _shares(prompt: Any, i: int, n: int) -> Iterable[tuple[Any, float]]:
    if not isinstance(prompt, Mixture):
        return [(prompt, 1.0)]
    pairs = zip(prompt.parts, prompt.shares(i, n), strict=True)
    return [(leaf, w * share) for part, w in pairs if w for leaf, share in _shares(part, i, n)]


def average(leaves: Tensor, shares: Tensor) -> Tensor:
    """(B, ...): rows of `leaves` (m, ...) averaged by `shares` (B, m); a row of one leaf is that leaf to the bit.

    A mask is the union of those that have a share.
    """
    out = leaves[shares.argmax(1).to(leaves.device)]
    mixed = ((shares != 0).sum(1) > 1).nonzero()[:, 0]
    if not len(mixed):
        return out
    some = shares[mixed].to(leaves.device)
    if leaves.dtype == torch.bool:
        out[mixed] = torch.tensordot((some != 0).float(), leaves.float(), 1) > 0
    elif leaves.is_floating_point():
        out[mixed] = torch.tensordot(some.to(leaves.dtype), leaves, 1)
    else:
        raise BadInput("prompt: classes are told by number and have no average; give one, or change it by Switch")
    return out


@dataclass(frozen=True, eq=False)
class Stepwise:
    """An entry of a Cond that is another average of its leaves in every step; a function of t.

    Args:
        leaves: (m, ...) values.
        shares: (B, n, m) shares of the leaves.
        times: (n + 1,) the grid's nodes, falling; step i lasts from node i to just before node i + 1.
    """

    leaves: Tensor
    shares: Tensor
    times: Tensor

    @staticmethod
    def on(grid: Grid, leaves: Tensor, shares: Tensor) -> Stepwise:
        """On the steps of a grid, in whichever direction it runs."""
        if grid.times.ndim > 1:
            raise BadInput("prompt: changes over the run, and the times of this grid differ within a picture")
        return Stepwise(leaves, shares, grid.times.sort(descending=True).values)

    def __call__(self, t: Any) -> Tensor:
        at = Coef(t).tensor(len(self)).cpu().reshape(len(self), -1).amax(1)
        # A time that went through another process comes back changed by rounding.
        step = (self.times[1:-1] >= at[:, None] - 1e-9).sum(1)
        return average(self.leaves, self.shares[torch.arange(len(self)), step])

    def __getitem__(self, rows: Any) -> Stepwise:
        return replace(self, shares=self.shares[rows])

    def __len__(self) -> int:
        return len(self.shares)

    @property
    def shape(self) -> torch.Size:
        """Of its value at any time."""
        return torch.Size((len(self), *self.leaves.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """Of its value at any time."""
        return self.leaves.dtype

    def map(self, function: Any) -> Stepwise:
        """`function` on the leaves (dtype, device)."""
        return replace(self, leaves=function(self.leaves))

    def cat(self, values: Sequence[Tensor | Stepwise]) -> Stepwise:
        """Rows of several entries joined, of which some may be the same at all times."""
        n = self.shares.shape[1]
        lifted = [self._lift(v) if isinstance(v, Tensor) else v for v in values]
        if any(not torch.equal(v.times, self.times) for v in lifted):
            raise BadInput("prompt: prompts that change over runs on different grids do not make one batch")
        table = torch.zeros(sum(map(len, lifted)), n, sum(len(v.leaves) for v in lifted))
        row = leaf = 0
        for v in lifted:
            table[row : row + len(v), :, leaf : leaf + len(v.leaves)] = v.shares
            row, leaf = row + len(v), leaf + len(v.leaves)
        return Stepwise(torch.cat([v.leaves for v in lifted]), table, self.times)

    def _lift(self, v: Tensor) -> Stepwise:
        return replace(self, leaves=v, shares=torch.eye(len(v))[:, None].expand(-1, self.shares.shape[1], -1))
