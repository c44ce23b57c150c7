"""What diffuses (a tensor or a Tree of tensors) and the numbers that act on it (Coef).

A state is a tensor, batch first, or a `Tree` of named states. A coefficient is a `Coef`: a number in float64 that may
vary over samples, tokens, frames or pixels. Coefficients align with a state from the *left*: a Coef of shape (B,) is
one number a sample whatever the state's shape, so no method ever writes `.view(-1, 1, 1, 1)`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Tree(Mapping[str, Any]):
    """Named states of one batch that diffuse together, such as nodes and adjacency, or source and target.

    Arithmetic and torch's elementwise functions act part by part; `tree["name"]` is a part and `tree[rows]` the same
    rows of every part.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Mapping[str, Any] | None = None, **named: Any):
        self.parts: dict[str, Any] = {**(parts or {}), **named}

    def __getitem__(self, key: Any) -> Any:
        return self.parts[key] if isinstance(key, str) else self.map(lambda v: v[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __repr__(self) -> str:
        return f"Tree({', '.join(f'{k}={v!r}' for k, v in self.parts.items())})"

    def map(self, function: Callable[..., Any], *others: Any) -> Tree:
        """Apply `function` part by part; a Tree among `others` gives its own part, anything else is shared."""
        return Tree(
            {k: function(v, *(o.parts[k] if isinstance(o, Tree) else o for o in others)) for k, v in self.parts.items()}
        )

    def __add__(self, o: Any) -> Tree:
        return self.map(lambda a, b: a + b, o)

    def __radd__(self, o: Any) -> Tree:
        return self.map(lambda a, b: b + a, o)

    def __sub__(self, o: Any) -> Tree:
        return self.map(lambda a, b: a - b, o)

    def __rsub__(self, o: Any) -> Tree:
        return self.map(lambda a, b: b - a, o)

    def __mul__(self, o: Any) -> Tree:
        return self.map(lambda a, b: a * b, o)

    def __rmul__(self, o: Any) -> Tree:
        return self.map(lambda a, b: b * a, o)

    def __truediv__(self, o: Any) -> Tree:
        return self.map(lambda a, b: a / b, o)

    def __rtruediv__(self, o: Any) -> Tree:
        return self.map(lambda a, b: b / a, o)

    def __pow__(self, o: Any) -> Tree:
        return self.map(lambda a, b: a**b, o)

    def __neg__(self) -> Tree:
        return self.map(lambda a: -a)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """torch.sqrt(tree), torch.zeros_like(tree), torch.cat([tree, tree]) ...: once for every part."""
        leaves, spec = pytree.tree_flatten((args, kwargs or {}), is_leaf=lambda v: isinstance(v, Tree))
        names = next(leaf for leaf in leaves if isinstance(leaf, Tree)).parts

        def part(k: str) -> Any:
            a, kw = pytree.tree_unflatten([v.parts[k] if isinstance(v, Tree) else v for v in leaves], spec)
            return func(*a, **kw)

        return Tree({k: part(k) for k in names})


pytree.register_pytree_node(
    Tree,
    lambda tree: (list(tree.parts.values()), list(tree.parts)),
    lambda values, names: Tree(dict(zip(names, values, strict=True))),
    serialized_type_name="suffuse.Tree",
)

Value: TypeAlias = Any
"""A tensor or a Tree, batch first. Typed Any because the two share their arithmetic and no base class."""

Number: TypeAlias = float | Tensor


def leaves(x: Any) -> list[Tensor]:
    """The tensors of a state or of any pytree of tensors."""
    return [x] if isinstance(x, Tensor) else [v for v in pytree.tree_leaves(x) if isinstance(v, Tensor)]


def batch_size(x: Value) -> int:
    """Number of rows of a state."""
    return leaves(x)[0].shape[0]


def flat(x: Value) -> Tensor:
    """(B, n): every row of a state as one vector."""
    return torch.cat([leaf.flatten(1) if leaf.ndim > 1 else leaf[:, None] for leaf in leaves(x)], 1)


def dot(x: Value, y: Value) -> Tensor:
    """(B,): inner product of each row of `x` with the same row of `y`, in float64."""
    return (flat(x).double() * flat(y).double()).sum(1)


def norm(x: Value) -> Tensor:
    """(B,): Euclidean length of each row, in float64."""
    return flat(x).double().norm(dim=1)


def put(x: Any, rows: Any, y: Any) -> Any:
    """A copy of the batch-first pytree `x` in which `rows` are those of `y`."""

    def one(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor):
            return b
        a = a.clone()
        a[rows] = b.to(a.dtype)
        return a

    return pytree.tree_map(one, x, y)


def _pair(a: Number, b: Number) -> tuple[Number, Number]:
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim != b.ndim:
        n = max(a.ndim, b.ndim)
        a, b = (v.reshape(v.shape + (1,) * (n - v.ndim)) for v in (a, b))
    return a, b


def _divide(a: Number, b: Number) -> Number:
    if isinstance(b, float) and b == 0.0:
        if isinstance(a, float):  # as IEEE and torch do, not as Python does
            return math.nan if a == 0.0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)
        return a / torch.zeros((), dtype=torch.float64)
    return a / b


def _operator(function: Callable[[Any, Any], Any]) -> Callable[[Coef, Any], Any]:
    def operate(self: Coef, o: Any) -> Any:
        other = o.d if type(o) is Coef else o
        if type(self.d) is float and type(other) is float:  # most schedule arithmetic: worth a short way
            new = object.__new__(Coef)
            new.d = function(self.d, other)
            return new
        return self._with(o, function)

    return operate


def _comparison(function: Callable[[Any, Any], Any]) -> Callable[[Coef, Any], Any]:
    return lambda self, o: function(*_pair(self.d, Coef(o).d))


class Coef:
    """A float64 number for all rows (), or one for each sample (B,), token (B, L) or pixel (B, 1, H, W).

    With a Coef or a plain number it computes elementwise in float64; with a tensor or Tree it multiplies that state,
    aligned from the left and cast to the state's dtype. A number shared by all is kept as a Python float, which makes
    schedule arithmetic nearly free; `d` is that float or the tensor.
    """

    __slots__ = ("d",)
    d: Number

    def __init__(self, d: Any):
        if type(d) is float:
            self.d = d
        elif isinstance(d, Coef):
            self.d = d.d
        elif isinstance(d, Tensor):
            shared = d.ndim == 0 and not d.requires_grad
            self.d = d.item() if shared else d.double()
        else:
            self.d = float(d)

    @property
    def shared(self) -> bool:
        """True when one number holds for every row."""
        return isinstance(self.d, float)

    def item(self) -> float:
        """The number, where it is one for all rows (or the same in each)."""
        if isinstance(self.d, float):
            return self.d
        first = self.d.flatten()[0]
        if not bool((self.d == first).all()):
            raise ValueError("this coefficient differs between rows, tokens or pixels; it is not one number")
        return float(first)

    def tensor(self, rows: int) -> Tensor:
        """(rows,) or (rows, ...) float64."""
        if isinstance(self.d, float):
            return torch.full((rows,), self.d, dtype=torch.float64)
        return self.d if self.d.ndim and self.d.shape[0] == rows else self.d.expand(rows, *self.d.shape[1:])

    def to(self, like: Tensor) -> Number:
        """The float, or the tensor shaped to multiply `like`."""
        if isinstance(self.d, float):
            return self.d
        return self.d.reshape(self.d.shape + (1,) * (like.ndim - self.d.ndim)).to(like.device, like.dtype)

    def __getitem__(self, rows: Any) -> Coef:
        if isinstance(self.d, float) or self.d.ndim == 0 or self.d.shape[0] == 1:
            return self
        return Coef(self.d[rows])

    def __repr__(self) -> str:
        return f"Coef({self.d})"

    def _with(self, o: Any, function: Callable[[Any, Any], Any]) -> Any:
        """function(self, o): a Coef for numbers, a state for states."""
        if isinstance(o, Coef):
            return Coef(function(*_pair(self.d, o.d)))
        if isinstance(o, (int, float)):
            return Coef(function(self.d, float(o)))
        if isinstance(o, Tensor):
            return function(self.to(o), o)
        return NotImplemented

    __add__ = _operator(operator.add)
    __radd__ = __add__
    __sub__ = _operator(operator.sub)
    __rsub__ = _operator(lambda a, b: b - a)
    __mul__ = _operator(operator.mul)
    __rmul__ = __mul__
    __truediv__ = _operator(_divide)
    __rtruediv__ = _operator(lambda a, b: _divide(b, a))
    __pow__ = _operator(operator.pow)
    __lt__ = _comparison(operator.lt)
    __le__ = _comparison(operator.le)
    __gt__ = _comparison(operator.gt)
    __ge__ = _comparison(operator.ge)
    __eq__ = _comparison(operator.eq)
    __hash__ = None  # type: ignore[assignment]  # comparing may give a tensor

    def __neg__(self) -> Coef:
        return Coef(-self.d)

    def __abs__(self) -> Coef:
        return Coef(abs(self.d))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`tensor * coef` and its like arrive here: hand them to the reflected operator above."""
        reflected = _REFLECTED.get(getattr(func, "__name__", ""))
        if reflected is None or len(args) != 2:
            return NotImplemented
        return getattr(args[1], reflected)(args[0])

    @staticmethod
    def cat(coefs: Sequence[Coef], sizes: Iterable[int]) -> Coef:
        """Coefs of several batches, joined; stays one float where all agree."""
        if all(isinstance(c.d, float) and c.d == coefs[0].d for c in coefs):
            return coefs[0]
        joined = [c.tensor(n) for c, n in zip(coefs, sizes, strict=True)]
        ndim = max(v.ndim for v in joined)
        return Coef(torch.cat([v.reshape(v.shape + (1,) * (ndim - v.ndim)) for v in joined]))


_REFLECTED = {
    "add": "__radd__", "__add__": "__radd__", "sub": "__rsub__", "__sub__": "__rsub__", "mul": "__rmul__",
    "__mul__": "__rmul__", "div": "__rtruediv__", "true_divide": "__rtruediv__", "__truediv__": "__rtruediv__",
}  # fmt: skip


def _unary(exact: Callable[[float], float], batched: Callable[[Tensor], Tensor]) -> Callable[[Any], Coef]:
    def function(c: Any) -> Coef:
        d = Coef(c).d
        return Coef(exact(d) if isinstance(d, float) else batched(d))

    return function


def _log(v: float) -> float:
    return math.log(v) if v > 0 else (-math.inf if v == 0 else math.nan)


def _exp(v: float) -> float:
    return math.exp(v) if v < 709.0 else math.inf


exp = _unary(_exp, torch.exp)
expm1 = _unary(lambda v: math.expm1(v) if v < 709.0 else math.inf, torch.expm1)
log = _unary(_log, torch.log)
sqrt = _unary(lambda v: math.sqrt(v) if v >= 0 else math.nan, torch.sqrt)
sin = _unary(math.sin, torch.sin)
cos = _unary(math.cos, torch.cos)


def where(condition: Any, a: Any, b: Any) -> Coef:
    """Elementwise choice between two coefficients; `condition` is a comparison of coefficients."""
    a, b = Coef(a).d, Coef(b).d
    if isinstance(condition, bool):
        return Coef(a if condition else b)
    a, b = (v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64) for v in (a, b))
    n = max(v.ndim for v in (condition, a, b))
    condition, a, b = (v.reshape(v.shape + (1,) * (n - v.ndim)) for v in (condition, a, b))
    return Coef(torch.where(condition, a, b))


def minimum(a: Any, b: Any) -> Coef:
    """Elementwise smaller of two coefficients."""
    return where(Coef(a) <= b, a, b)


def _factor(c: Any, x: Tensor) -> Number:
    d = c.d if type(c) is Coef else c
    return d if type(d) is float else Coef(c).to(x)


def combine(*terms: tuple[Any, Value]) -> Value:
    """Linear combination sum_i c_i x_i of states; shared coefficients cost one kernel a term after the first."""
    c, x = terms[0]
    if not isinstance(x, Tensor):
        return Tree({k: combine(*((c[k] if isinstance(c, Tree) else c, v[k]) for c, v in terms)) for k in x})
    factor = _factor(c, x)
    out = x if isinstance(factor, float) and factor == 1.0 else x * factor
    for c, v in terms[1:]:
        factor = _factor(c, v)
        out = torch.add(out, v, alpha=factor) if isinstance(factor, float) else torch.addcmul(out, factor, v)
    return out
