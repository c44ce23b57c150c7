"""Changing what happens inside a network, without changing the network.

A `Patch` is middleware around modules of a network ("sites"). Patches are active *per call*: a view `base.with_(patch)`
makes them so while it runs. Nothing is attached to the network, so teacher, student, weak and strong views share one
set of weights, and removal is exact.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .plugin import Plugin, Windowed, Wrapper
from .site import Site, Sites, sites_of

if TYPE_CHECKING:
    from .call import Call


class Patch(Plugin):
    """Middleware around calls of a network's modules."""

    reads: tuple[str, ...] = ()
    """Cond entries that this patch uses beyond those of the network's family."""

    drops_tokens: ClassVar[bool] = False
    """Whether layers get fewer tokens at some steps than at others."""

    def sites(self, net: Sites) -> Sequence[Site]:
        """Where it acts. Refuse with a reason where the network has no such place."""
        return ()

    def make(self, site: Site) -> nn.Module | None:
        """Parameters for one site, or None. A patch with parameters is used through `Adapter`."""
        return None

    def around(self, call: Call) -> Any:
        """What the site returns; `call()` runs what it wraps."""
        return call()

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At attention sites: queries, keys, values (B, heads, tokens, width) before the product."""
        return q, k, v

    def probs(self, call: Call, p: Tensor) -> Tensor:
        """At attention sites: probabilities (B, heads, queries, keys)."""
        return p

    def product(self, call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor | None:
        """At attention sites without a mask: softmax(scale q k^T) v in another way; None leaves it to torch.

        It is asked only where nobody watches the probabilities; of several patches the innermost that answers counts.
        """
        return None

    def beside(self, call: Call, q: Tensor) -> Tensor | None:
        """At attention sites: what is added to the product, such as attention to other keys; None is nothing.

        Args:
            q: (B, heads, queries, width), as all patches made them.
        """
        return None

    def watches(self, call: Call) -> bool:
        """Whether `probs` is wanted of this call; the probabilities are formed only where some patch watches."""
        return type(self).probs is not Patch.probs

    @property
    def attends(self) -> bool:
        """Whether it takes part in the attention product."""
        return any(getattr(type(self), name) is not getattr(Patch, name) for name in ATTENTION)

    def during(self, start: float, stop: float) -> Patch:
        """This patch for the part of the run with start <= progress < stop, 0 to 1."""
        return PatchWindow(self, start, stop)

    def only(self, *paths: str) -> Patch:
        """This patch on rows of these branches, such as "cond"."""
        return OnPaths(self, paths)

    def on(self, net: Any) -> Adapter:
        """An adapter: this patch with parameters made for every site of `net`."""
        made = {s.name: self.make(s) for s in self.sites(sites_of(net))}
        return Adapter(self, {name: part for name, part in made.items() if part is not None})


ATTENTION = ("qkv", "probs", "product", "beside")
"""What a patch does inside of an attention product."""


class PatchWrapper(Wrapper, Patch):
    """A patch that hands some calls to another and lets the rest pass."""

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.inner.reads

    @property
    def attends(self) -> bool:
        return self.inner.attends

    def watches(self, call: Call) -> bool:
        return self.active(call) and self.inner.watches(call)

    def sites(self, net: Sites) -> Sequence[Site]:
        return self.inner.sites(net)

    def make(self, site: Site) -> nn.Module | None:
        return self.inner.make(site)

    def on(self, net: Any) -> Adapter:
        made = self.inner.on(net)
        return made._with(self, made.scale)

    @abstractmethod
    def active(self, call: Call) -> bool:
        """Whether the inner patch has a part in this call."""


@dataclass(frozen=True)
class PatchWindow(Windowed, PatchWrapper):
    """`inner` for a part of the run, and in training."""

    def active(self, call: Call) -> bool:
        return call.at is None or self.inside(call.at)

    def around(self, call: Call) -> Any:
        return self.inner.around(call) if self.active(call) else call()

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.inner.qkv(call, q, k, v) if self.active(call) else (q, k, v)

    def probs(self, call: Call, p: Tensor) -> Tensor:
        return self.inner.probs(call, p) if self.active(call) else p

    def product(self, call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor | None:
        return self.inner.product(call, q, k, v, scale) if self.active(call) else None

    def beside(self, call: Call, q: Tensor) -> Tensor | None:
        return self.inner.beside(call, q) if self.active(call) else None


@dataclass(frozen=True)
class OnPaths(PatchWrapper):
    """`inner` on the rows whose path ends in one of `paths`; the other rows of the batch pass unchanged."""

    inner: Patch
    paths: tuple[str, ...]

    def active(self, call: Call) -> bool:
        return bool(self._rows(call))

    def around(self, call: Call) -> Any:
        rows = self._rows(call)
        return call.split([i in rows for i in range(len(call.rows))], self.inner.around, lambda rest: rest())

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.active(call):
            return q, k, v
        new_q, new_k, new_v = self.inner.qkv(call, q, k, v)
        return self._merged(call, new_q, q), self._merged(call, new_k, k), self._merged(call, new_v, v)

    def probs(self, call: Call, p: Tensor) -> Tensor:
        return self._merged(call, self.inner.probs(call, p), p) if self.active(call) else p

    def beside(self, call: Call, q: Tensor) -> Tensor | None:
        more = self.inner.beside(call, q) if self.active(call) else None
        return None if more is None else self._merged(call, more, torch.zeros_like(more))

    def _rows(self, call: Call) -> list[int]:
        return [i for i, (path, _) in enumerate(call.rows) if path.split("/")[-1] in self.paths]

    def _merged(self, call: Call, new: Tensor, old: Tensor) -> Tensor:
        chosen = torch.zeros(len(call.rows), dtype=torch.bool, device=old.device)
        chosen[self._rows(call)] = True
        return torch.where(chosen[:, None, None, None], new, old)


class Adapter(nn.Module):
    """A patch together with its parameters: one part for each site, named as the site is.

    Args:
        patch: the hyper-parameters.
        parts: site -> its parameters.
        scale: strength; 0 is without it.
    """

    def __init__(self, patch: Patch, parts: Mapping[str, nn.Module], scale: float = 1.0):
        super().__init__()
        self.patch, self.scale = patch, scale
        self.names = list(parts)
        self.parts = nn.ModuleList(parts.values())

    @property
    def bare(self) -> tuple[Plugin, ...]:
        """The patch, without parameters and windows; see `Plugin.bare`."""
        return self.patch.bare

    def part(self, name: str) -> nn.Module:
        """The part of the site `name`."""
        return self.parts[self.names.index(name)]

    def scaled(self, scale: float) -> Adapter:
        """The same parameters at another strength."""
        return self._with(self.patch, scale)

    def during(self, start: float, stop: float) -> Adapter:
        """The same parameters for a part of the run; see `Patch.during`."""
        return self._with(self.patch.during(start, stop), self.scale)

    def only(self, *paths: str) -> Adapter:
        """The same parameters on rows of these branches; see `Patch.only`."""
        return self._with(self.patch.only(*paths), self.scale)

    def _with(self, patch: Patch, scale: float) -> Adapter:
        return Adapter(patch, dict(zip(self.names, self.parts, strict=True)), scale)

    def extra_repr(self) -> str:
        return f"{self.patch}, {len(self.names)} sites"
