"""One call of one site, as patches see it, and the thread's stack of what is active."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .memory import Memory, Rows, Scope, join, take
from .site import Site, parameters
from .value import Coef

if TYPE_CHECKING:
    from .patch import Adapter, Patch
    from .process import Process
    from .step import Step


@dataclass(frozen=True, eq=False)
class Binding:
    """A patch on one network: which modules it covers, with which parts."""

    patch: Patch
    handlers: Mapping[nn.Module | None, tuple[Site, nn.Module | None]]
    adapter: Adapter | None = None

    @cached_property
    def attends(self) -> bool:
        """Whether the patch takes part in attention products."""
        return self.patch.attends

    @property
    def scale(self) -> float:
        """Strength of an adapter, 1 for a plain patch."""
        return 1.0 if self.adapter is None else self.adapter.scale


@dataclass(eq=False, slots=True)
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
    process: Process | None = None
    scratch: dict[Any, Any] = field(default_factory=dict)

    def chain(self, module: nn.Module | None) -> tuple[tuple[int, Binding], ...]:
        """Bindings that cover a module, outermost first, with their positions."""
        return tuple((i, b) for i, b in enumerate(self.bindings) if module in b.handlers)


class _Stack(threading.local):
    def __init__(self) -> None:  # once in every thread
        self.bindings: tuple[Binding, ...] = ()
        self.context: Context | None = None
        self.frame: Frame | None = None


stack = _Stack()


class using:  # noqa: N801
    """Set fields of the thread's stack for the duration of a block."""

    __slots__ = ("new", "old")

    def __init__(self, **values: Any):
        self.new = values

    def __enter__(self) -> None:
        self.old = stack.__dict__.copy()
        stack.__dict__.update(self.new)

    def __exit__(self, *error: object) -> None:
        stack.__dict__.update(self.old)


def _batched(value: Any, batch: int, function: Callable[[Tensor], Tensor]) -> Any:
    return pytree.tree_map(
        lambda v: function(v) if isinstance(v, Tensor) and v.ndim and v.shape[0] == batch else v, value
    )


class Call:
    """One call of one site, as a patch sees it: `call()` runs what is wrapped, with changed streams if given."""

    __slots__ = ("args", "chain", "frame", "inner", "kwargs", "level", "module", "rows")

    def __init__(
        self,
        module: nn.Module | None,
        inner: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: Frame,
        chain: tuple[tuple[int, Binding], ...],
        rows: Rows,
        level: int = 0,
    ):
        self.module, self.inner, self.args, self.kwargs = module, inner, args, kwargs
        self.frame, self.chain, self.rows, self.level = frame, chain, rows, level

    # where and when
    @property
    def _binding(self) -> Binding:
        return self.chain[self.level][1]

    @property
    def patch(self) -> Patch:
        """The patch that is asked."""
        return self._binding.patch

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

    @property
    def process(self) -> Any:
        """The corruption that the network was trained on; None in an encoder of text or pictures."""
        return self.frame.process

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
        return self._scope(self.site.name)

    @property
    def common(self) -> Scope:
        """What this patch remembered for these rows, the same at all its sites."""
        return self._scope(None)

    def _scope(self, site: str | None) -> Scope:
        memory = self.frame.context.memory if self.frame.context else Memory()
        step = self.at.i if self.at is not None else 0
        # counted from the innermost, so that a view may be wrapped for one call and its memory stays its own
        place = len(self.frame.bindings) - self.chain[self.level][0]
        return Scope(memory, ("patch", place, type(self.patch).__name__, site), self.rows, step)

    # streams
    def __getitem__(self, stream: str) -> Any:
        """An input by its canonical stream name or by the module's argument name."""
        name = self.site.streams.get(stream, stream)
        if name in self.kwargs:
            return self.kwargs[name]
        names = parameters(type(self.module).forward) if self.module is not None else ("x", "t", "cond")
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
        if self.site.keys[0] == "text":
            return slice(None, text) if stream == "text" else slice(text, None)
        if not text:
            return slice(0, 0) if stream == "text" else slice(None)
        return slice(-text, None) if stream == "text" else slice(None, -text)

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
            return deeper.patch.around(deeper)
        frame = self.frame
        if self.rows != frame.rows and len(self.rows) <= len(frame.rows):
            frame = replace(frame, rows=self.rows, t=self.t, cond=self.cond)
        if frame is stack.frame:
            return self.inner(*args, **kwargs)
        with using(frame=frame):  # sites inside see the rows that were taken, or repeated
            return self.inner(*args, **kwargs)

    def _changed(self, changes: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = parameters(type(self.module).forward) if self.module is not None else ("x", "t", "cond")
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

    def repeat(self, paths: Sequence[str]) -> Call:
        """The same call of the whole network with all its rows once on each of these branches, one after the other."""
        x, t, cond = self.args
        index = torch.arange(len(self.rows)).repeat(len(paths))
        args = (x[index], t[index], cond[index])
        rows = tuple((f"{path}/{own}", sample) for path in paths for own, sample in self.rows)
        frame = replace(self.frame, rows=rows, t=args[1], cond=args[2])
        return Call(self.module, self.inner, args, self.kwargs, frame, self.chain, rows, self.level)

    def split(self, chosen: Sequence[bool], some: Callable[[Call], Any], rest: Callable[[Call], Any]) -> Any:
        """What `some` returns for the chosen rows and `rest` for the others, in the order of the batch."""
        if all(chosen) or not any(chosen):
            return (some if chosen and chosen[0] else rest)(self)
        first, second = ([i for i, c in enumerate(chosen) if bool(c) is wanted] for wanted in (True, False))
        both = join([some(self.take(first)), rest(self.take(second))])
        return take(both, torch.tensor(first + second).argsort())

    def last(self, name: str = "last") -> Any:
        """The output remembered for these rows; rows that have none are computed (and only those)."""
        return self.split(self.memory.held(name), lambda call: call.memory[name], lambda call: call.remember(name))

    def remember(self, name: str = "last") -> Any:
        """Run, and keep the output for these rows."""
        out = self()
        self.memory[name] = out
        return out
