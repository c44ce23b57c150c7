"""How networks and decoders are computed: precision of products, memory format, number type, compilation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from .call import stack
from .codec import Codec, Space
from .cond import Cond
from .denoiser import EMPTY, Derived, Network
from .law import Draw
from .memory import mapped
from .prediction import Prediction
from .site import Sites
from .value import Coef, Value


@dataclass(frozen=True)
class Mode:
    """One way to compute a network or a decoder.

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

    def __str__(self) -> str:
        """What differs from the plain mode."""
        said = [f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name)) != f.default]
        return f"Mode({', '.join(said)})"


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
        self.eager = self._with(base, _weights(base.net, mode))
        self.graph = self._with(base, compiled(self.eager.net)) if mode.compiled else None

    @staticmethod
    def _with(base: Network, net: Any) -> Network:
        return base if net is base.net else Network(net, base.family, base.process, base.kind)

    @property
    def sites(self) -> Sites:
        return self.eager.sites

    def forward(self, x: Value, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Prediction:
        net = self.eager if self.graph is None or stack.bindings else self.graph
        free = net is self.eager and not (stack.bindings or torch.is_grad_enabled())
        with _precision(self.mode.matmul), torch.inference_mode() if free else nullcontext():
            prediction = net(x, t, cond)
        return mapped(_ordinary, prediction) if free else prediction


class TunedCodec(Codec):
    """A codec whose decoder is computed in another mode; it encodes, and decodes under gradients, as `base` does.

    Args:
        base: the codec.
        mode: how it decodes; compilation is for networks alone.
    """

    def __init__(self, base: Codec, mode: Mode):
        super().__init__()
        self.base, self.mode, self.decoder = base, mode, _weights(base, mode)

    @property
    def space(self) -> Space:  # type: ignore[override]
        return self.base.space

    @property
    def components(self) -> Mapping[str, Any]:
        return self.base.components

    @property
    def vae(self) -> Any:
        """The autoencoder of `base`, where it has one."""
        return self.base.vae

    def encode(self, data: Tensor, noise: Draw | None = None) -> tuple[Tensor, Cond]:
        return self.base.encode(data, noise)

    def decode(self, value: Tensor, cond: Cond = EMPTY) -> Tensor:
        with _precision(self.mode.matmul):
            return (self.base if torch.is_grad_enabled() else self.decoder).decode(value, cond)


def _weights(module: Any, mode: Mode) -> Any:
    """The module itself, or a copy where the mode asks for other weights."""
    if mode.dtype is None and not mode.channels_last:
        return module
    changes: dict[str, Any] = {"memory_format": torch.channels_last} if mode.channels_last else {}
    if mode.dtype is not None:
        changes["dtype"] = getattr(torch, mode.dtype)
    return nn.Module.to(copy.deepcopy(module), **changes)


@contextmanager
def _precision(matmul: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(matmul)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
