"""How a module learns that a patch wants its call.

A module's class is exchanged once for a generated subclass with one `__call__` (as torch's parametrisation does), which
looks for bindings of the current call. Copies keep working: a deep copy has the subclass too, but no binding names it,
so it runs plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .call import Binding, Call, Frame, stack, using
from .errors import BadInput, Refused
from .memory import Rows, rows_of
from .patch import Adapter, Patch
from .site import sites_of


class Tapped:
    """Mixin of the generated subclasses: looks for patches of the current call before running the module."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        frame = stack.frame
        plain = super().__call__  # type: ignore[misc]
        if frame is None or not (chain := frame.chain(self)):  # type: ignore[arg-type]
            return plain(*args, **kwargs)
        handled = [(i, b) for i, b in chain if b.attends and b.handlers[self][0].kind == "attention"]  # type: ignore[index]
        inner = plain if not handled else lambda *a, **k: _attention(self, plain, a, k, handled)
        call = Call(self, inner, args, kwargs, frame, chain, _rows(frame, args, kwargs))  # type: ignore[arg-type]
        return call.patch.around(call)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copied and pickled by way of the plain class: the generated one cannot be found by name."""
        return _blank, (type(self).__bases__[1],), self.__getstate__()


def _rows(frame: Frame, args: Any, kwargs: Any) -> Rows:
    """The evaluation's rows; a batch of another kind (tokens of a text encoder, say) gets rows of its own."""
    batch = _batch((*args, *kwargs.values()))  # nearly always of the first of them
    batch = _batch(pytree.tree_leaves((args, kwargs))) if batch is None else batch
    return frame.rows if len(frame.rows) == batch else rows_of("", range(batch or 0))


def _batch(values: Iterable[Any]) -> int | None:
    return next((v.shape[0] for v in values if isinstance(v, Tensor) and v.ndim), None)


@cache
def _tapped_class(cls: Any) -> type:
    return type(cls.__name__, (Tapped, cls), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})


def _blank(cls: Any) -> Any:
    tapped: Any = _tapped_class(cls)
    return tapped.__new__(tapped)


def tap(module: nn.Module) -> None:
    """Make a module look for patches when it is called; its state_dict, hooks and copies stay what they were."""
    if not isinstance(module, Tapped):
        module.__class__ = _tapped_class(cast(Any, type(module)))


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
            query, key, value = call.patch.qkv(call, query, key, value)
        if attn_mask is not None:
            attn_mask = attn_mask[..., : key.shape[-2]]  # a patch may drop the last keys
        mixed = self._mixed(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        for call in self.calls:
            if (more := call.patch.beside(call, query)) is not None:
                mixed = mixed + more
        return mixed

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float,
               is_causal: bool, scale: float | None, enable_gqa: bool) -> Tensor:  # fmt: skip
        """The product itself, with the probabilities that patches change."""
        watchers = [c for c in self.calls if c.patch.watches(c)]
        if not watchers:
            if attn_mask is None and not is_causal and not enable_gqa and not dropout_p:
                factor = query.shape[-1] ** -0.5 if scale is None else scale
                for call in reversed(self.calls):
                    if (mixed := call.patch.product(call, query, key, value, factor)) is not None:
                        return mixed
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
            p = call.patch.probs(call, p)
        return F.dropout(p, dropout_p) @ value


def _attention(module: Any, plain: Any, args: Any, kwargs: Any, chain: list[tuple[int, Binding]]) -> Any:
    frame = stack.frame
    assert frame is not None
    rows = _rows(frame, args, kwargs)
    calls = [Call(module, plain, args, kwargs, frame, tuple(chain), rows, level) for level in range(len(chain))]
    with _Product(calls) as product:
        out = plain(*args, **kwargs)
    if not product.reached:
        raise Refused(
            f"{calls[0].patch}: {calls[0].site.name} ({type(module).__name__}) does not attend through torch's "
            "scaled_dot_product_attention; use the default attention processor, or attn_implementation='sdpa'"
        )
    return out


def bind(item: Any, net: Any) -> Binding:
    """A patch or adapter made ready for one network: its sites tapped, its parts found by name."""
    if not isinstance(item, (Patch, Adapter)):
        loaded = "; put loaded files on a model by with_adapters(model, ...)" if isinstance(item, Mapping) else ""
        raise BadInput(f"{item!r:.60}: is no patch or adapter; give one such as DeepCache(){loaded}")
    sites = sites_of(net)
    if isinstance(item, Adapter):
        # as the patch sees its sites, where it still chooses them: a layer may be a site of several kinds
        by_name = {s.name: s for s in (*sites, *item.patch.sites(sites)) if s.module is not None}
        missing = [n for n in item.names if n not in by_name]
        if missing:
            raise Refused(
                f"{item.patch} has parts for {missing[0]!r} and {len(missing) - 1} more sites that this network lacks; "
                "use it on the architecture that it was made for"
            )
        handlers = {by_name[n].module: (by_name[n], part) for n, part in zip(item.names, item.parts, strict=True)}
        binding = Binding(item.patch, handlers, item)
    else:
        if any(isinstance(p, Patch) and type(p).make is not Patch.make for p in item.bare):
            raise Refused(
                f"{item}: has parameters, which a value cannot hold; make an adapter of it with .on(denoiser)"
            )
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
