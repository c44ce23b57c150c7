"""TaylorSeer: between the steps that compute, outputs are forecast by a Taylor expansion in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.registry import method
from ..core.site import Site, Sites
from ..core.value import Coef
from .policy import CacheTable


@method(paper="taylorseer", tags=("saves depth",))
@dataclass(frozen=True)
class TaylorSeer(CacheTable):
    """Every N-th step computes all attention and feed-forward units; the steps between take
    F(t) = sum over k <= m of D_k (t - t_0)^k / k!, where t_0 is the time of the last step that computed, D_0 its output
    and D_(k+1) = (D_k - D_k') / (t_0 - t_0') the difference to the one before it.

    Layers whose feed-forward is no unit of its own (the single layers of Flux) are forecast whole.

    Args:
        every: N >= 1; 1 is the plain network. The paper uses 3 to 7.
        order: m >= 0; 0 reuses the last output. The paper uses 1 to 4.

    Raises:
        BadInput: numbers out of range. Refused: a network without attention.

    Example:
        >>> load("shapes-flow").generate("a red circle", patches=[TaylorSeer(every=3, order=1)])

    Reference: Liu et al., From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers, 2503.06923.

    Differs from the paper: distances are in time and not in steps, so that unevenly placed steps, samplers of several
    evaluations a step and rows that pause are forecast rightly; where steps are even it is the same. Steps at the start
    that all compute are a window: `TaylorSeer().during(0.1, 1.0)`.
    """

    every: int = 3
    order: int = 1

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("order", 0)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least):
                raise BadInput(f"TaylorSeer({name}={value!r}): give a whole number, {least} or more")

    def neutral(self) -> TaylorSeer:
        """The setting that changes nothing."""
        return replace(self, every=1)

    def sites(self, net: Sites) -> Sequence[Site]:
        found: list[Site] = []
        for layer in (s for s in net if s.role == "transformer"):
            units = [s for s in net if s.name.startswith(f"{layer.name}.") and s.kind in ("attention", "unit")]
            found += units if any(s.role == "feedforward" for s in units) else [layer]
        if not found:
            raise Refused("TaylorSeer: this network has no transformer; use DeepCache on a plain UNet")
        return found

    def steps(self, site: Site, n: int) -> frozenset[int]:
        return frozenset(range(0, n, self.every))

    def store(self, call: Call, value: Any) -> None:
        super().store(call, value)
        call.memory["expansion"] = call.split(call.memory.held("expansion"), self._renewed, self._begun)

    def recall(self, call: Call) -> Any:
        """The forecast for the time of every row."""
        before, _, orders = call.memory["expansion"]
        ahead = _times(call) - before
        weights = [Coef(ahead**k / math.factorial(k)) for k in range(self.order + 1)]
        return _each(lambda *d: sum((w * v for w, v in zip(weights[1:], d[1:], strict=True)), d[0]), *orders)

    def _begun(self, call: Call) -> Any:
        """The expansion of rows that compute for the first time: all slopes are 0."""
        value, t = call.memory["last"], _times(call)
        return t, torch.zeros_like(t), (value, *[_each(torch.zeros_like, value)] * self.order)

    def _renewed(self, call: Call) -> Any:
        """The expansion around the present, from the one before."""
        value, t = call.memory["last"], _times(call)
        before, known, old = call.memory["expansion"]
        step = t - before
        moved = step != 0.0  # asked twice at one time, a row keeps its slopes
        rate = torch.where(moved, 1.0 / torch.where(moved, step, 1.0), 0.0)
        new = [value]
        for k in range(self.order):
            w, keep = Coef(rate * (known >= k)), Coef((~moved).double())
            new.append(_each(lambda a, b, c, w=w, keep=keep: w * (a - b) + keep * c, new[k], old[k], old[k + 1]))
        return t, known + moved, tuple(new)


def _times(call: Call) -> Tensor:
    """(B,) one time for each row."""
    rows = len(call.rows)
    return call.t.tensor(rows).reshape(rows, -1).mean(1)


def _each(function: Any, *values: Any) -> Any:
    """A function of the tensors of outputs, stream by stream."""
    return pytree.tree_map(lambda first, *rest: function(first, *rest) if isinstance(first, Tensor) else first, *values)
