"""Changing what happens inside a network, without changing the network.

A `Patch` is middleware around modules of a network ("sites"). Patches are active *per call*: a view `base.with_(patch)`
pushes its bindings on a thread-local stack while it runs, and modules that a binding names look there. Nothing is
attached to the network, so teacher, student, weak and strong views share one set of weights and removal is exact.

To look there, a module's class is exchanged once for a generated subclass with one `__call__` (as torch's
parametrisation does). Copies keep working: a deep copy has the subclass too, but no binding names it, so it runs plain.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .errors import Refused
from .memory import Memory, Rows, Scope, join
from .plugin import Plugin
from .value import Coef

if TYPE_CHECKING:
    from .step import Step


# sites ----------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Site:
    """A named place in a network.

    Args:
        name: dotted module name, "" for the root (the whole network, with canonical x, t, cond).
        module: the module, or None for the root.
        kind: "root", "block", "unit", "attention", "linear", "conv" or "norm".
        role: what it is within its kind: "self", "cross", "joint" attention; "resnet", "transformer", "feedforward", "down", "up" unit.
        stage: "in", "down", "mid", "up", "body" or "out".
        depth: relative position in the order of execution, 0 to 1.
        streams: canonical stream name ("image", "text", "temb", "skips", "pos") -> the module's argument name.
        returns: canonical streams that it returns, in order; ("image",) also where the tensor comes bare.
        keys: at attention sites, the streams whose keys it holds, in order; at joint sites its queries lie so too.
        note: free for the patch that chose the site.
    """

    name: str
    module: nn.Module | None
    kind: str
    role: str = ""
    stage: str = "body"
    depth: float = 0.0
    streams: Mapping[str, str] = field(default_factory=dict)
    returns: tuple[str, ...] = ("image",)
    keys: tuple[str, ...] = ()
    note: str = ""


class Sites:
    """All sites of one network, in the order of execution."""

    def __init__(self, sites: Iterable[Site]):
        self.all = list(sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.all)

    def of(self, kind: str, *, role: str | None = None, stage: str | None = None) -> list[Site]:
        """Sites of a kind, optionally of one role or stage."""
        return [s for s in self.all if s.kind == kind and role in (None, s.role) and stage in (None, s.stage)]

    @property
    def root(self) -> Site:
        """The whole network."""
        return self.of("root")[0]

    @property
    def blocks(self) -> list[Site]:
        """Blocks: a resolution level of a UNet, a layer of a transformer."""
        return self.of("block")

    @property
    def units(self) -> list[Site]:
        """Units inside blocks: resnets, transformers, feed-forwards, samplers."""
        return self.of("unit")

    def attention(self, role: str | None = None) -> list[Site]:
        """Attention sites: "self", "cross" or "joint"."""
        return self.of("attention", role=role)

    def named(self, *fragments: str) -> list[Site]:
        """Sites whose dotted name contains one of the fragments."""
        return [s for s in self.all if any(f in s.name for f in fragments)]


# patches --------------------------------------------------------------------------------------------------------------
class Patch(Plugin):
    """Middleware around calls of a network's modules."""

    reads: tuple[str, ...] = ()
    """Cond entries that this patch uses beyond those of the network's family."""

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

    def watches(self, call: Call) -> bool:
        """Whether `probs` is wanted of this call; the probabilities are formed only where some patch watches."""
        return type(self).probs is not Patch.probs

    def during(self, start: float, stop: float) -> Patch:
        """This patch for the part of the run with start <= progress < stop, 0 to 1."""
        return Windowed(self, start, stop)

    def only(self, *paths: str) -> Patch:
        """This patch on rows of these branches, such as "cond"."""
        return OnPaths(self, paths)

    def on(self, net: Any) -> Adapter:
        """An adapter: this patch with parameters made for every site of `net`."""
        made = {s.name: self.make(s) for s in self.sites(sites_of(net))}
        return Adapter(self, {name: part for name, part in made.items() if part is not None})


@dataclass(frozen=True)
class Windowed(Patch):
    """`inner` for a part of the run."""

    inner: Patch
    start: float
    stop: float

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.inner.reads

    def sites(self, net: Sites) -> Sequence[Site]:
        return self.inner.sites(net)

    def make(self, site: Site) -> nn.Module | None:
        return self.inner.make(site)

    def bind(self, setting: Any) -> Windowed:
        return Windowed(self.inner.bind(setting), self.start, self.stop)

    def active(self, call: Call) -> bool:
        """True inside of the window, and in training."""
        return call.at is None or self.start <= call.at.progress < self.stop

    def around(self, call: Call) -> Any:
        return self.inner.around(call) if self.active(call) else call()

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.inner.qkv(call, q, k, v) if self.active(call) else (q, k, v)

    def probs(self, call: Call, p: Tensor) -> Tensor:
        return self.inner.probs(call, p) if self.active(call) else p

    def watches(self, call: Call) -> bool:
        return self.active(call) and self.inner.watches(call)


@dataclass(frozen=True)
class OnPaths(Patch):
    """`inner` on the rows whose path ends in one of `paths`; the other rows of the batch pass unchanged."""

    inner: Patch
    paths: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.inner.reads

    def sites(self, net: Sites) -> Sequence[Site]:
        return self.inner.sites(net)

    def make(self, site: Site) -> nn.Module | None:
        return self.inner.make(site)

    def bind(self, setting: Any) -> OnPaths:
        return OnPaths(self.inner.bind(setting), self.paths)

    def active(self, call: Call) -> bool:
        """True when some row of the batch is on one of the paths."""
        return bool(self._rows(call))

    def _rows(self, call: Call) -> list[int]:
        return [i for i, (path, _) in enumerate(call.rows) if path.split("/")[-1] in self.paths]

    def around(self, call: Call) -> Any:
        rows = self._rows(call)
        if len(rows) == len(call.rows):
            return self.inner.around(call)
        if not rows:
            return call()
        rest = [i for i in range(len(call.rows)) if i not in rows]
        order = torch.tensor(rows + rest).argsort()
        both = join([self.inner.around(call.take(rows)), call.take(rest)()])
        return pytree.tree_map(lambda v: v[order] if isinstance(v, Tensor) else v, both)

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = self._rows(call)
        if not rows:
            return q, k, v
        new = self.inner.qkv(call, q, k, v)
        index = torch.zeros(len(call.rows), dtype=torch.bool, device=q.device)
        index[rows] = True
        return tuple(torch.where(index[:, None, None, None], n, o) for n, o in zip(new, (q, k, v), strict=True))  # type: ignore[return-value]

    def probs(self, call: Call, p: Tensor) -> Tensor:
        rows = self._rows(call)
        if not rows:
            return p
        index = torch.zeros(len(call.rows), dtype=torch.bool, device=p.device)
        index[rows] = True
        return torch.where(index[:, None, None, None], self.inner.probs(call, p), p)

    def watches(self, call: Call) -> bool:
        return self.active(call) and self.inner.watches(call)


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

    def part(self, name: str) -> nn.Module:
        """The part of the site `name`."""
        return self.parts[self.names.index(name)]

    def scaled(self, scale: float) -> Adapter:
        """The same parameters at another strength."""
        return Adapter(self.patch, dict(zip(self.names, self.parts, strict=True)), scale)

    def extra_repr(self) -> str:
        return f"{self.patch}, {len(self.names)} sites"


# binding and calling --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Binding:
    """A patch on one network: which modules it covers, with which parts."""

    patch: Patch
    handlers: Mapping[nn.Module | None, tuple[Site, nn.Module | None]]
    adapter: Adapter | None = None

    @property
    def scale(self) -> float:
        """Strength of an adapter, 1 for a plain patch."""
        return 1.0 if self.adapter is None else self.adapter.scale


@dataclass(frozen=True, eq=False)
class Context:
    """What the engine knows when it calls a network: step, rows, memory. In training there is none."""

    at: Step | None
    rows: Rows
    memory: Memory
    count: Callable[[Rows], None]


@dataclass(frozen=True, eq=False)
class Frame:
    """One network call with patches: what every site of it shares."""

    bindings: tuple[Binding, ...]
    t: Coef
    cond: Any
    rows: Rows
    context: Context | None
    scratch: dict[Any, Any] = field(default_factory=dict)

    def chain(self, module: nn.Module | None) -> tuple[tuple[int, Binding], ...]:
        """Bindings that cover a module, outermost first, with their positions."""
        return tuple((i, b) for i, b in enumerate(self.bindings) if module in b.handlers)


class _Stack(threading.local):
    bindings: tuple[Binding, ...] = ()
    context: Context | None = None
    frame: Frame | None = None


stack = _Stack()


@contextmanager
def using(**values: Any) -> Iterator[None]:
    """Set fields of the thread's stack for the duration of a block."""
    old = {k: getattr(stack, k) for k in values}
    for k, v in values.items():
        setattr(stack, k, v)
    try:
        yield
    finally:
        for k, v in old.items():
            setattr(stack, k, v)


@cache
def _parameters(function: Any) -> tuple[str, ...]:
    return tuple(p for p in inspect.signature(function).parameters if p != "self")


def _batched(value: Any, batch: int, function: Callable[[Tensor], Tensor]) -> Any:
    return pytree.tree_map(
        lambda v: function(v) if isinstance(v, Tensor) and v.ndim and v.shape[0] == batch else v, value
    )


class Call:
    """One call of one site, as a patch sees it: `call()` runs what is wrapped, with changed streams if given."""

    __slots__ = ("args", "chain", "frame", "inner", "kwargs", "level", "module", "rows")

    def __init__(self, module: nn.Module | None, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], frame: Frame,
                 chain: tuple[tuple[int, Binding], ...], rows: Rows, level: int = 0):  # fmt: skip
        self.module, self.inner, self.args, self.kwargs = module, inner, args, kwargs
        self.frame, self.chain, self.rows, self.level = frame, chain, rows, level

    # where and when
    @property
    def _binding(self) -> Binding:
        return self.chain[self.level][1]

    @property
    def site(self) -> Site:
        """The site of this call."""
        return self._binding.handlers[self.module][0]

    @property
    def part(self) -> Any:
        """This site's parameters in the adapter, or None."""
        return self._binding.handlers[self.module][1]

    @property
    def scale(self) -> float:
        """Strength of the adapter."""
        return self._binding.scale

    @property
    def at(self) -> Step | None:
        """The step of the run; None in training."""
        return self.frame.context.at if self.frame.context else None

    @property
    def t(self) -> Coef:
        """Time of every row."""
        return self._own(self.frame.t)

    @property
    def cond(self) -> Any:
        """The condition of every row."""
        return self._own(self.frame.cond)

    def _own(self, value: Any) -> Any:
        """Rows of this call, out of those of the evaluation; all where the module's batch is of another kind."""
        where = {row: i for i, row in enumerate(self.frame.rows)}
        if self.rows == self.frame.rows or any(row not in where for row in self.rows):
            return value
        return value[torch.tensor([where[row] for row in self.rows])]

    @property
    def scratch(self) -> dict[Any, Any]:
        """Shared by all sites of this one network call."""
        return self.frame.scratch

    @property
    def memory(self) -> Scope:
        """What this patch remembered at this site for these rows."""
        memory = self.frame.context.memory if self.frame.context else Memory()
        step = self.at.i if self.at is not None else 0
        # counted from the innermost, so that a view may be wrapped for one call and its memory stays its own
        place = len(self.frame.bindings) - self.chain[self.level][0]
        return Scope(memory, ("patch", place, type(self._binding.patch).__name__, self.site.name), self.rows, step)

    # streams
    def __getitem__(self, stream: str) -> Any:
        """An input by its canonical stream name or by the module's argument name."""
        name = self.site.streams.get(stream, stream)
        if name in self.kwargs:
            return self.kwargs[name]
        names = _parameters(type(self.module).forward) if self.module is not None else ("x", "t", "cond")
        if name not in names or names.index(name) >= len(self.args):
            raise KeyError(f"site {self.site.name!r} has no stream {stream!r} in this call")
        return self.args[names.index(name)]

    def span(self, stream: str) -> slice:
        """Where the keys of a stream lie at this attention site; at joint sites its queries lie there too."""
        if stream not in self.site.keys:
            return slice(0, 0)
        if len(self.site.keys) == 1:
            return slice(None)
        given = self["text"] if "text" in self else None
        text = (self.cond["text"] if given is None else given).shape[1]
        cut = text if self.site.keys[0] == "text" else -text
        return slice(None, cut) if self.site.keys[0] == stream else slice(cut, None)

    def __contains__(self, stream: str) -> bool:
        try:
            self[stream]
        except KeyError:
            return False
        return True

    def __call__(self, **changes: Any) -> Any:
        """Run what this patch wraps; `changes` replace input streams."""
        args, kwargs = self._changed(changes) if changes else (self.args, self.kwargs)
        if self.level + 1 < len(self.chain):
            deeper = Call(self.module, self.inner, args, kwargs, self.frame, self.chain, self.rows, self.level + 1)
            return deeper._binding.patch.around(deeper)
        if self.rows == self.frame.rows or len(self.frame.rows) < len(self.rows):
            return self.inner(*args, **kwargs)
        # sites inside see the rows that were taken
        with using(frame=replace(self.frame, rows=self.rows, t=self.t, cond=self.cond)):
            return self.inner(*args, **kwargs)

    def _changed(self, changes: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = _parameters(type(self.module).forward) if self.module is not None else ("x", "t", "cond")
        args, kwargs = list(self.args), dict(self.kwargs)
        for stream, value in changes.items():
            name = self.site.streams.get(stream, stream)
            if name not in kwargs and name in names and names.index(name) < len(args):
                args[names.index(name)] = value
            else:
                kwargs[name] = value
        return tuple(args), kwargs

    # rows
    def take(self, rows: Sequence[int]) -> Call:
        """The same call for some rows of the batch."""
        index, n = torch.as_tensor(list(rows)), len(self.rows)
        cut = lambda v: v[index.to(v.device)]  # noqa: E731
        args = _batched(self.args, n, cut)
        whole = self.site.streams.get("pos")  # positions have no batch, and may be as many as there are rows
        kwargs = {name: v if name == whole else _batched(v, n, cut) for name, v in self.kwargs.items()}
        if self.module is None:
            x, t, cond = self.args
            args = (x[index], t[index], cond[index])
        picked = tuple(self.rows[i] for i in rows)
        return Call(self.module, self.inner, args, kwargs, self.frame, self.chain, picked, self.level)

    def last(self, name: str = "last") -> Any:
        """The output remembered for these rows; rows that have none are computed (and only those)."""
        held = self.memory.held(name)
        if all(held):
            return self.memory[name]
        if not any(held):
            return self.remember(name)
        have, lack = [i for i, h in enumerate(held) if h], [i for i, h in enumerate(held) if not h]
        both = join([self.take(have).memory[name], self.take(lack).remember(name)])
        order = torch.tensor(have + lack).argsort()
        return pytree.tree_map(lambda v: v[order] if isinstance(v, Tensor) else v, both)

    def remember(self, name: str = "last") -> Any:
        """Run, and keep the output for these rows."""
        out = self()
        self.memory[name] = out
        return out


class Tapped:
    """Mixin of the generated subclasses: looks for patches of the current call before running the module."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        frame = stack.frame
        plain = super().__call__  # type: ignore[misc]
        if frame is None or not (chain := frame.chain(self)):  # type: ignore[arg-type]
            return plain(*args, **kwargs)
        handled = [(i, b) for i, b in chain if _attends(b.patch)]
        inner = plain if not handled else lambda *a, **k: _attention(self, plain, a, k, handled)
        batch = next((v.shape[0] for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor) and v.ndim), 0)
        rows = frame.rows if len(frame.rows) == batch else tuple(("", i) for i in range(batch))
        call = Call(self, inner, args, kwargs, frame, chain, rows)  # type: ignore[arg-type]
        return call._binding.patch.around(call)


@cache
def _tapped_class(cls: Any) -> type:
    return type(cls.__name__, (Tapped, cls), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})


def tap(module: nn.Module) -> None:
    """Make a module look for patches when it is called; its state_dict, hooks and copies stay what they were."""
    if not isinstance(module, Tapped):
        module.__class__ = _tapped_class(cast(Any, type(module)))


def _attends(patch: Patch) -> bool:
    while isinstance(patch, (Windowed, OnPaths)):
        patch = patch.inner
    return type(patch).qkv is not Patch.qkv or type(patch).probs is not Patch.probs


class _Product(TorchFunctionMode):
    """Intercepts the attention product inside one attention module."""

    def __init__(self, calls: list[Call]):
        super().__init__()
        self.calls = calls
        self.reached = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        return self.attend(*args, **kwargs)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
               is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
        self.reached = True
        for call in self.calls:
            query, key, value = call._binding.patch.qkv(call, query, key, value)
        watchers = [c for c in self.calls if c._binding.patch.watches(c)]
        if not watchers:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        score = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            score = score.masked_fill(
                torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device).triu(1), -torch.inf
            )
        if attn_mask is not None:
            score = score.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else score + attn_mask
        p = score.softmax(-1)
        for call in watchers:
            p = call._binding.patch.probs(call, p)
        return F.dropout(p, dropout_p) @ value


def _attention(module: Any, plain: Any, args: Any, kwargs: Any, chain: list[tuple[int, Binding]]) -> Any:
    frame = stack.frame
    assert frame is not None
    batch = next(v.shape[0] for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor) and v.ndim)
    rows = frame.rows if len(frame.rows) == batch else tuple(("", i) for i in range(batch))
    calls = [Call(module, plain, args, kwargs, frame, tuple(chain), rows, level) for level in range(len(chain))]
    with _Product(calls) as product:
        out = plain(*args, **kwargs)
    if not product.reached:
        raise Refused(f"{calls[0]._binding.patch}: {calls[0].site.name} ({type(module).__name__}) does not attend through torch's "
                      "scaled_dot_product_attention; use the default attention processor, or attn_implementation='sdpa'")  # fmt: skip
    return out


# how a network is described ------------------------------------------------------------------------------------------


def sites_of(net: Any) -> Sites:
    """Sites of a denoiser or of a bare module."""
    described = getattr(net, "sites", None)
    if isinstance(described, Sites):
        return described
    return Sites([Site("", None, "root"), *layers(net)])


def layers(net: nn.Module) -> Iterator[Site]:
    """Linear, convolution and norm sites of any module, in the order of definition."""
    for name, module in net.named_modules():
        kind = ("linear" if isinstance(module, nn.Linear) else "conv" if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
                else "norm" if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) or type(module).__name__.endswith("RMSNorm") else None)  # fmt: skip
        if kind:
            yield Site(name, module, kind, streams={"image": _parameters(type(module).forward)[0]})


def bind(item: Patch | Adapter, net: Any) -> Binding:
    """A patch or adapter made ready for one network: its sites tapped, its parts found by name."""
    sites = sites_of(net)
    if isinstance(item, Adapter):
        by_name = {s.name: s for s in sites if s.module is not None}
        missing = [n for n in item.names if n not in by_name]
        if missing:
            raise Refused(f"{item.patch} has parts for {missing[0]!r} and {len(missing) - 1} more sites that this network lacks; "
                          "use it on the architecture that it was made for")  # fmt: skip
        handlers = {by_name[n].module: (by_name[n], part) for n, part in zip(item.names, item.parts, strict=True)}
        binding = Binding(item.patch, handlers, item)
    else:
        binding = Binding(item, {s.module: (s, None) for s in item.sites(sites)})
    for module in binding.handlers:
        if module is not None:
            tap(module)
    return binding


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Gradient checkpointing that carries the active patches into the recomputation."""
    saved = {"bindings": stack.bindings, "context": stack.context, "frame": stack.frame}

    def replay(*a: Any, **k: Any) -> Any:
        with using(**saved):
            return function(*a, **k)

    return torch.utils.checkpoint.checkpoint(replay, *args, use_reentrant=False, **kwargs)
