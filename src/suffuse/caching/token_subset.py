"""A transformer on part of its image tokens: left out behind the entry, filled in again at the exit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.call import Call
from ..core.errors import Refused
from ..core.memory import join
from ..core.patch import Patch
from ..core.site import Site, Sites


class TokenSubset(Patch):
    """Rows that ran before run only some of their image tokens; the others keep their last output.

    Tokens are gathered behind the entry, which has given them their positions, so that every layer works on fewer.
    Attention sees all of them: keys and values of those that are left out are remembered at each layer, and those of
    the tokens that run are written over them. The exit writes the outputs over the last ones. A subclass says which
    tokens are left out, for each row; all rows that leave out any leave out equally many.
    """

    drops_tokens = True

    text: bool = True
    """Whether text tokens run too where image and text attend jointly; else their keys and values are remembered."""

    @abstractmethod
    def skipped(self, call: Call) -> Tensor:
        """(B, tokens) bool, True where an image token is left out; asked at the root, once an evaluation."""

    def sites(self, net: Sites) -> Sequence[Site]:
        layers = [s for s in net.blocks if s.stage == "body"]
        if not layers:
            raise Refused(f"{type(self).__name__}: only transformers have tokens that can be left out; use DeepCache")
        side = net.root.grid[0] // layers[0].grid[0]
        first = replace(layers[0], note="first")
        ends = [s for s in net.units if s.role in ("in", "out")]
        return [replace(net.root, note=str(side)), *ends, first, *layers[1:], *net.attention("self"),
                *net.attention("joint")]  # fmt: skip

    def grid(self, call: Call) -> tuple[int, int]:
        """Rows and columns of image tokens, at the root."""
        height, width = call["x"].shape[-2:]
        return height // int(call.site.note), width // int(call.site.note)

    def around(self, call: Call) -> Any:
        if call.at is None:
            return call()
        match call.site.kind, call.site.role:
            case "root", _:
                return self._root(call)
            case "unit", "in":
                out, run = call(), _running(call)
                return out if run is None else pick(out, run)
            case "unit", "out":
                out, run = call(), _running(call)
                call.common["out"] = out if run is None else put(call.common["out"], run, out)
                return call.common["out"]
            case "block", _:
                return self._layer(call)
        return call()

    def _root(self, call: Call) -> Any:
        skip = self.skipped(call)
        before = torch.tensor(call.common.held("out"), device=skip.device)
        call.common["skip"] = skip & before[:, None]
        return call.split((skip.any(1) & before).tolist(), Call.__call__, Call.__call__)

    def _layer(self, call: Call) -> Any:
        if (run := _running(call)) is None:
            return call()
        changes = {"text": call["text"][:, :0]} if call.site.note == "first" and self._leaves_text(call) else {}
        if "pos" not in call:
            return call(**changes)
        # positions have no batch, so rows with different tokens go one by one
        if len(call.rows) > 1:
            return join([self._layer(call.take([i])) for i in range(len(call.rows))])
        pos = call["pos"]
        whole = self._present(call, run, pos[0].shape[0])[0]
        return call(pos=tuple(p[whole] for p in pos), **changes)

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if call.at is None or call.site.role == "cross":
            return q, k, v
        if (run := _running(call)) is not None:
            whole = call.memory["keys"], call.memory["values"]
            here = self._present(call, run, whole[0].shape[2])
            k, v = put(whole[0], here, k), put(whole[1], here, v)
        call.memory["keys"], call.memory["values"] = k, v
        return q, k, v

    def _leaves_text(self, call: Call) -> bool:
        return not self.text and "text" in call.site.returns + call.site.keys

    def _present(self, call: Call, run: Tensor, length: int) -> Tensor:
        """(B, n) places of the tokens that run, in the sequence of all tokens of this site."""
        image = call.common["skip"].shape[1]
        text = torch.arange(0 if self._leaves_text(call) else length - image, device=run.device).expand(len(run), -1)
        if call.site.keys[:1] == ("image",):
            return torch.cat([run, image + text], 1)
        return torch.cat([text, length - image + run], 1)


def _running(call: Call) -> Tensor | None:
    """(B, n) image tokens that run, in order; None where all do."""
    skip = call.common["skip"]
    return (~skip).nonzero()[:, 1].view(len(skip), -1) if bool(skip.any()) else None


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of x (B, ..., tokens, width), for each row those of `index` (B, n)."""
    return x.gather(-2, _wide(index, x))


def put(x: Tensor, index: Tensor, new: Tensor) -> Tensor:
    """x (B, ..., tokens, width) with the tokens of `index` (B, n) replaced."""
    return x.scatter(-2, _wide(index, x), new)


def _wide(index: Tensor, x: Tensor) -> Tensor:
    return index.view(len(index), *[1] * (x.ndim - 3), -1, 1).expand(*x.shape[:-2], -1, x.shape[-1])
