"""From prompts to a Cond: a chain of pieces, each of which adds the entries it knows how to make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from .cond import Cond
from .errors import BadInput
from .grid import Grid
from .plugin import Prompt
from .prompt import Encoded, Stepwise, average, share_table, simple, varies

Size = tuple[int, int]
"""Height and width of a picture in pixels."""


class Piece(nn.Module, ABC):
    """One link of a conditioner: a text encoder, a table of classes, the picture's size."""

    tells: ClassVar[bool] = True
    """Whether its entries follow from what a prompt says, and are in one that is `Encoded`."""

    @property
    def components(self) -> Mapping[str, Any]:
        """What a saved model stores of it, by diffusers' names."""
        return {}

    @property
    def optional(self) -> bool:
        """True where the absence of a prompt can be encoded, and so "null" exists."""
        return True

    @abstractmethod
    def forward(self, prompts: Sequence[Prompt | None], cond: Cond, size: Size) -> Cond:
        """`cond` with this piece's entries, one row a prompt.

        Args:
            prompts: what to encode; None is the absence of a prompt, as classifier-free guidance needs it.
            cond: entries of the pieces before.
            size: of the pictures to be made.
        """

    def overflow(self, prompt: Prompt) -> str | None:
        """The end of `prompt` that this piece cannot read; "" if it reads all of it, None if it reads no text."""
        return None


class Conditioner(nn.Module):
    """A chain of pieces.

    Args:
        pieces: in order; a piece sees the entries of those before it.
    """

    def __init__(self, pieces: Sequence[Piece]):
        super().__init__()
        self.pieces = nn.ModuleList(pieces)

    @property
    def chain(self) -> list[Piece]:
        """The pieces in order."""
        return [piece for piece in self.pieces if isinstance(piece, Piece)]

    @property
    def components(self) -> Mapping[str, Any]:
        """What a saved model stores, by diffusers' names."""
        return {k: v for piece in self.chain for k, v in piece.components.items()}

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[Prompt | None],
        negative: Sequence[Prompt | None] | None = None,
        *,
        others: Mapping[str, Prompt] | None = None,
        phrases: Sequence[Sequence[Prompt]] = (),
        size: Size = (0, 0),
        grid: Grid | None = None,
        truncate: bool = False,
    ) -> Cond:
        """The Cond of some prompts, one row each, with the alternatives "null" and those of `others`.

        Equal prompts are encoded once, also those that mixtures are made of.

        Args:
            prompts: strings, prompt values, or names or numbers of classes; None for none.
            negative: what "null" stands for, one for each prompt; default None for each.
            others: further alternatives, name -> prompt, the same in every row.
            phrases: texts of each prompt, as many as it has: the alternatives "phrase:0", "phrase:1", ... and, in
                "phrases", the entry "given" (B, n), True where a prompt has so many.
            size: height and width of the pictures to be made, in pixels.
            grid: of the run; prompts that change from step to step need it.
            truncate: cut off what no text encoder can read, instead of refusing it.

        Raises:
            BadInput: a prompt that is too long, or one of a kind that this model does not take.
        """
        nulls = [None] * len(prompts) if negative is None else list(negative)
        if len(nulls) != len(prompts):
            raise BadInput(
                f"negative_prompt: {len(nulls)} for {len(prompts)} prompts; give one, or one for each prompt"
            )
        named = {k: [p] * len(prompts) for k, p in (others or {}).items()}
        most = max(map(len, phrases), default=0)
        named |= {f"phrase:{k}": [row[k] if k < len(row) else None for row in phrases] for k in range(most)}
        if negative is not None or all(piece.optional for piece in self.chain):
            named["null"] = nulls
        unique = self._leaves([p for row in (prompts, *named.values()) for p in row], truncate)
        cond = self._told(unique, size)
        for piece in self.chain:
            if not piece.tells:
                cond = piece(unique, cond, size)

        def rows(of: Sequence[Prompt | None]) -> Cond:
            return _rows(cond, unique, of, grid) if cond.entries else cond

        alternatives = {name: rows(of) for name, of in named.items()}
        if phrases:
            given = torch.tensor([len(row) for row in phrases])[:, None] > torch.arange(most)
            alternatives["phrases"] = Cond({"given": given})
        return rows(prompts).with_alt(**alternatives)

    @torch.no_grad()
    def encode_prompt(self, prompt: Prompt, size: Size = (0, 0), truncate: bool = False) -> Encoded:
        """A prompt to be used as often as one likes: what the text encoders make of it."""
        leaves = self._leaves([prompt], truncate)
        if varies(prompt):
            raise BadInput(f"prompt={prompt!r:.60}: changes over the run; give it to `generate` as it is")
        return _encoded(_rows(self._told(leaves, size), leaves, [prompt], None), 0)

    def _leaves(self, prompts: Sequence[Prompt | None], truncate: bool) -> list[Prompt | None]:
        """What some prompts are made of, each once."""
        odd = next((p for p in prompts if not isinstance(p, Hashable)), None)
        if odd is not None:
            raise BadInput(f"prompt={odd!r:.60}: must be text, a class, or a value such as Blend(('a', 'b'))")
        unique = list(dict.fromkeys(leaf for p in prompts for leaf in simple(p)))
        for leaf in unique:
            self._check(leaf, truncate)
        return unique

    def _told(self, leaves: Sequence[Prompt | None], size: Size) -> Cond:
        """What the pieces make of what leaves say, one row each; of those that are `Encoded` no encoder is asked."""
        rest = [leaf for leaf in leaves if not isinstance(leaf, Encoded)]
        cond = Cond()
        for piece in self.chain:
            if piece.tells and rest:
                cond = piece(rest, cond, size)
        if len(rest) == len(leaves):
            return cond
        made = iter(_encoded(cond, k) for k in range(len(rest)))
        device = next((p.device for p in self.parameters()), None)
        return _stacked([leaf if isinstance(leaf, Encoded) else next(made) for leaf in leaves], device)

    def _check(self, prompt: Prompt | None, truncate: bool) -> None:
        if prompt is None or isinstance(prompt, Encoded):
            return
        if not self.chain:
            raise BadInput(f"prompt={prompt!r}: this model takes no prompt; leave it out")
        lost = [o for piece in self.chain if (o := piece.overflow(prompt)) is not None]
        if lost and not truncate and (rest := min(lost, key=len)):
            lost_end = _short(rest)
            raise BadInput(f"prompt: too long, {lost_end!r} would be cut off; shorten it, or give truncate=True")


def _rows(cond: Cond, leaves: Sequence[Prompt | None], of: Sequence[Prompt | None], grid: Grid | None) -> Cond:
    """The condition of some prompts, made of the rows of their leaves."""
    spans = [_common([cond.spans[leaves.index(leaf)] for leaf in simple(p)]) for p in of] if cond.spans else ()
    changing = next((p for p in of if varies(p)), None)
    if changing is None:
        table = share_table(of, leaves, 1)[:, 0]
        return Cond({k: average(v, table) for k, v in cond.entries.items()}, spans=spans)
    if grid is None:
        raise BadInput(f"prompt={changing!r:.60}: changes over the run; give the run's `grid` where it is encoded")
    table = share_table(of, leaves, grid.n)
    return Cond({k: Stepwise.on(grid, v, table) for k, v in cond.entries.items()}, spans=spans)


def _encoded(cond: Cond, row: int) -> Encoded:
    return Encoded({name: value[row] for name, value in cond.items()}, cond.spans[row] if cond.spans else {})


def _stacked(leaves: Sequence[Encoded], device: torch.device | None) -> Cond:
    """The condition of encoded prompts, one row each."""
    for name in sorted({name for leaf in leaves for name in leaf.entries}):
        if len(shapes := {tuple(leaf.entries[name].shape) if name in leaf.entries else None for leaf in leaves}) > 1:
            raise BadInput(f"prompt: {name!r} of shapes {sorted(shapes, key=str)} in one run; encode all prompts alike")
    types = {name: (value.dtype, device or value.device) for name, value in leaves[0].entries.items()}
    entries = {
        name: torch.stack([leaf.entries[name].to(place, kind) for leaf in leaves])
        for name, (kind, place) in types.items()
    }
    return Cond(entries, spans=[leaf.spans for leaf in leaves])


def _common(spans: Sequence[Mapping[str, tuple[int, int]]]) -> Mapping[str, tuple[int, int]]:
    """The words that stand at the same place in all of several prompts."""
    return {word: span for word, span in spans[0].items() if all(other.get(word) == span for other in spans)}


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-16:]}"
