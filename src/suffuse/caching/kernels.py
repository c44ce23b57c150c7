"""Exact replacements of single operations, chosen layer by layer by measuring."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.call import Call
from ..core.cond import Cond
from ..core.denoiser import EMPTY, Denoiser
from ..core.errors import Refused
from ..core.patch import Patch
from ..core.plugin import Setting
from ..core.registry import method
from ..core.site import Site, Sites
from ..core.value import Coef
from .tiled_attention import partially_fused, tiled
from .winograd import transformed, winograd


class Kernel(ABC):
    """Another way to compute what a module computes. A frozen dataclass."""

    @abstractmethod
    def fits(self, site: Site) -> bool:
        """Whether it can take the place of this module."""

    def run(self, call: Call) -> Any:
        """What the module returns."""
        return call()

    def product(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor | None:
        """At attention sites: the product; None leaves it to torch."""
        return None


@method(tags=("kernel", "saves kernels"))
@dataclass(frozen=True)
class Winograd(Kernel):
    """F(4x4, 3x3): 3x3 convolutions with a quarter of the multiplications, for more memory.

    Reference: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 1509.09308.
    """

    def fits(self, site: Site) -> bool:
        m: Any = site.module
        return site.kind == "conv" and isinstance(m, nn.Conv2d) and (
            (m.kernel_size, m.stride, m.padding, m.dilation, m.groups) == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
        )  # fmt: skip

    def run(self, call: Call) -> Any:
        conv: Any = call.module
        return winograd(call["image"], _kernels(conv), conv.bias)


@method(tags=("kernel", "saves kernels"))
@dataclass(frozen=True)
class FusedResnet(Kernel):
    """Group norm and activation in one pass, twice in every residual block, by `torch.compile` (Triton on CUDA)."""

    def fits(self, site: Site) -> bool:
        m: Any = site.module
        plain = site.role == "resnet" and getattr(m, "time_embedding_norm", "") == "default"
        return plain and isinstance(m.nonlinearity, nn.SiLU) and m.upsample is None and m.downsample is None

    def run(self, call: Call) -> Any:
        m: Any = call.module
        x, temb = call["image"], call["temb"]
        h = m.conv1(_normed(x, m.norm1))
        if m.time_emb_proj is not None:
            h = h + m.time_emb_proj(temb if m.skip_time_act else F.silu(temb))[:, :, None, None]
        h = m.conv2(m.dropout(_normed(h, m.norm2)))
        x = x if m.conv_shortcut is None else m.conv_shortcut(x)
        return (x + h) / m.output_scale_factor


@method(tags=("kernel", "saves kernels"))
@dataclass(frozen=True)
class PartiallyFused(Kernel):
    """Attention whose softmax is folded into the product with the values: one matrix of scores instead of two."""

    def fits(self, site: Site) -> bool:
        return site.kind == "attention"

    def product(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return partially_fused(q, k, v, scale)


@method(tags=("kernel", "saves kernels"))
@dataclass(frozen=True)
class Tiled(Kernel):
    """Attention in tiles with a running softmax: memory of a tile, not of all scores.

    Args:
        queries, keys: sides of a tile.
    """

    queries: int = 256
    keys: int = 1024

    def fits(self, site: Site) -> bool:
        return site.kind == "attention"

    def product(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return tiled(q, k, v, scale, self.queries, self.keys)


KERNELS: tuple[Kernel, ...] = (Winograd(), FusedResnet(), PartiallyFused(), Tiled())
"""All that are tried."""


@method(paper="speed-is-all", tags=("saves kernels",))
@dataclass(frozen=True)
class FastKernels(Patch):
    """Single operations computed otherwise, up to rounding: the GPU-aware kernels, where they were measured to pay.

    `FastKernels.chosen(...)` times every kernel that fits at every layer and keeps those that are surely faster than
    what torch does there; where none is, the layer stays as it is, so that the whole is never slower by choice.
    Layers on which a patch further in acts, an adapter say, are computed as they are.

    Args:
        kernels: (name of a layer, its kernel); () is the plain network.
        made_for: the machine's choice is for this network and shape of states.

    Raises:
        Refused: another network, or one without such a layer.

    Example:
        >>> fast = FastKernels.chosen(model.denoiser, (2, 4, 16, 16), cond=model.condition(["a circle"] * 2))
        >>> model.generate("a red circle", patches=[fast.plan])

    Reference: Chen et al., Speed Is All You Need: On-Device Acceleration of Large Diffusion Models via GPU-Aware
    Optimizations, 2304.11267.

    Differs from the paper: fused norms and activations are compiled by torch instead of written for one GPU; fused
    GELU is left to `torch.compile` of whole networks (`suffuse.tuned`), where it belongs to a larger graph.
    """

    kernels: tuple[tuple[str, Kernel], ...] = ()
    made_for: Setting = Setting()

    def neutral(self) -> FastKernels:
        """The setting that changes nothing."""
        return FastKernels()

    def bind(self, setting: Setting) -> FastKernels:
        if self.made_for != Setting():
            setting.require(self.made_for, ("model",), "FastKernels")
        return self

    def sites(self, net: Sites) -> Sequence[Site]:
        found = [s for s in net if any(s.name == name and kernel.fits(s) for name, kernel in self.kernels)]
        if lost := {name for name, _ in self.kernels} - {s.name for s in found}:
            raise Refused(f"FastKernels: this network has no layer {min(lost)} of its kind; choose kernels for it anew")
        return found

    def _kernel(self, call: Call) -> Kernel:
        return next(k for name, k in self.kernels if name == call.site.name and k.fits(call.site))

    def around(self, call: Call) -> Any:
        alone = call.level + 1 == len(call.chain)
        return self._kernel(call).run(call) if alone and call.site.kind != "attention" else call()

    def product(self, call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor | None:
        return self._kernel(call).product(q, k, v, scale)

    @classmethod
    @torch.no_grad()
    def chosen(
        cls,
        denoiser: Denoiser,
        x: Tensor | Sequence[int],
        *,
        cond: Cond = EMPTY,
        t: float = 0.5,
        setting: Setting = Setting(),
        kernels: Sequence[Kernel] = KERNELS,
        rounds: int = 7,
    ) -> Choices:
        """Time kernels layer by layer on the inputs of one evaluation.

        Args:
            denoiser: the network.
            x: states of the shape in use, or that shape.
            cond: their conditions.
            t: time of the evaluation.
            setting: of the loaded model, so that the choice is refused elsewhere.
            kernels: that are tried.
            rounds: pairs that are timed for each, 5 or more.
        """
        if denoiser.sites is None:
            raise Refused(f"FastKernels: {type(denoiser).__name__} has no network; give a loaded model's denoiser")
        x = x if isinstance(x, Tensor) else torch.zeros(*x)
        options = [(s.name, k) for s in denoiser.sites for k in kernels if k.fits(s)]
        trial = _Trial(tuple(options), max(5, rounds))
        denoiser.with_(trial)(x, Coef(t), denoiser.prepare(cond))
        best: dict[str, tuple[str, Kernel]] = {}
        for name, kernel, ratio in sorted(trial.times, key=lambda found: -found[2].mean):
            if ratio.interval[1] < 1.0:
                best[name] = name, kernel
        return Choices(cls(tuple(best.values()), setting), tuple(trial.times))


@dataclass(frozen=True)
class Choices:
    """What `FastKernels.chosen` found.

    Args:
        plan: the patch.
        report: (layer, kernel, time over torch's) of everything that was tried.
    """

    plan: FastKernels
    report: tuple[tuple[str, Kernel, Any], ...]


@dataclass(frozen=True, eq=False)
class _Trial(Patch):
    """Times kernels beside the layers that they could replace."""

    options: tuple[tuple[str, Kernel], ...]
    rounds: int
    times: list[tuple[str, Kernel, Any]] = field(default_factory=list)

    def sites(self, net: Sites) -> Sequence[Site]:
        return [s for s in net if any(s.name == name and k.fits(s) for name, k in self.options)]

    def _fitting(self, call: Call) -> list[Kernel]:
        return [k for name, k in self.options if name == call.site.name and k.fits(call.site)]

    def around(self, call: Call) -> Any:
        if call.site.kind != "attention":
            for kernel in self._fitting(call):
                self._time(call, kernel, lambda kernel=kernel: kernel.run(call), call)
        return call()

    def product(self, call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor | None:
        for kernel in self._fitting(call):
            self._time(
                call, kernel, lambda kernel=kernel: kernel.product(q, k, v, scale),
                lambda: F.scaled_dot_product_attention(q, k, v, scale=scale),
            )  # fmt: skip
        return None

    def _time(self, call: Call, kernel: Kernel, subject: Any, baseline: Any) -> None:
        from ..evaluation.timing import paired

        ratio = paired(subject, baseline, rounds=self.rounds, seconds=0.002).ratio
        self.times.append((call.site.name, kernel, ratio))


@cache
def _fused() -> Any:
    return torch.compile(lambda x, groups, weight, bias, eps: F.silu(F.group_norm(x, groups, weight, bias, eps)))


def _normed(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    return _fused()(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


_transformed: WeakKeyDictionary[nn.Module, tuple[int, Tensor]] = WeakKeyDictionary()


def _kernels(conv: Any) -> Tensor:
    """Transformed once for every state of the weights."""
    known = _transformed.get(conv)
    if known is None or known[0] != conv.weight._version:
        known = _transformed[conv] = conv.weight._version, transformed(conv.weight)
    return known[1]
