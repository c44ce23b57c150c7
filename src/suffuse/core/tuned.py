"""How a network is computed: precision of matrix products, memory format, number type, compilation."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .call import stack
from .cond import Cond
from .denoiser import EMPTY, Derived, Network
from .memory import mapped
from .prediction import Prediction
from .site import Sites
from .value import Coef, Value


@dataclass(frozen=True)
class Mode:
    """One way to compute a network.

    Args:
        matmul: precision of float32 matrix products, "highest", "high" or "medium"; see
            `torch.set_float32_matmul_precision`. It holds while the network runs and is put back then.
        channels_last: convolutions with the channels innermost in memory.
        dtype: number type of weights and activations, such as "bfloat16"; None leaves it.
        compiled: by `torch.compile`, as one graph. Under patches the network runs as it is.
    """

    matmul: str = "highest"
    channels_last: bool = False
    dtype: str | None = None
    compiled: bool = False


class Tuned(Derived):
    """A network that is computed in another mode; `base` stays as it is, and a copy is made only where weights change.

    Where no gradient is asked for and no patch looks inside, torch keeps no books for autograd either
    (`torch.inference_mode`), which is to the bit the same and saves small networks some percent of their time.

    Args:
        base: the network.
        mode: how it is computed.
    """

    def __init__(self, base: Network, mode: Mode):
        super().__init__(base)
        self.mode = mode
        self.eager = self._with(base, self._weights(base.net))
        self.graph = self._with(base, compiled(self.eager.net)) if mode.compiled else None

    @staticmethod
    def _with(base: Network, net: Any) -> Network:
        return base if net is base.net else Network(net, base.family, base.process, base.kind)

    def _weights(self, net: nn.Module) -> nn.Module:
        if self.mode.dtype is None and not self.mode.channels_last:
            return net
        changes: dict[str, Any] = {"memory_format": torch.channels_last} if self.mode.channels_last else {}
        if self.mode.dtype is not None:
            changes["dtype"] = getattr(torch, self.mode.dtype)
        return nn.Module.to(copy.deepcopy(net), **changes)

    @property
    def sites(self) -> Sites:
        return self.eager.sites

    def forward(self, x: Value, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Prediction:
        net = self.eager if self.graph is None or stack.bindings else self.graph
        free = net is self.eager and not (stack.bindings or torch.is_grad_enabled())
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.mode.matmul)
        try:
            with torch.inference_mode() if free else nullcontext():
                prediction = net(x, t, cond)
        finally:
            torch.set_float32_matmul_precision(before)
        return mapped(_ordinary, prediction) if free else prediction


def _ordinary(v: Any) -> Any:
    """A tensor that autograd may see later: what was made in inference mode is copied."""
    return v.clone() if isinstance(v, Tensor) and v.is_inference() else v


def compiled(net: nn.Module) -> Any:
    """The network by `torch.compile`, anew for every shape that it meets.

    Torch counts compilations by code, which all networks of a class share, and runs what comes after the eighth as it
    is without a word: so this one counts for itself, and further.
    """
    own: Any = {"isolate_recompiles": True, "recompile_limit": 64}  # torch's types do not know them
    return torch.compile(net, dynamic=False, **own)
