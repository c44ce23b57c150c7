"""Named places in a network: where patches may act."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class Site:
    """A named place in a network.

    Args:
        name: dotted module name, "" for the root (the whole network, with canonical x, t, cond).
        module: the module, or None for the root.
        kind: "root", "block", "unit", "attention", "linear", "conv" or "norm".
        role: what it is within its kind: "self", "cross", "joint" attention; "resnet", "transformer", "feedforward",
            "down", "up" unit.
        stage: "in", "down", "mid", "up", "body" or "out".
        depth: relative position in the order of execution, 0 to 1.
        streams: canonical stream name ("image", "text", "temb", "skips", "pos") -> the module's argument name.
        returns: canonical streams that it returns, in order; ("image",) also where the tensor comes bare.
        keys: at attention sites, the streams whose keys it holds, in order; at joint sites its queries lie so too.
        note: free for the patch that chose the site.
        grid: rows and columns of the image that enters it at the network's own resolution; () where that is not known.
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
    grid: tuple[int, ...] = ()


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


def sites_of(net: Any) -> Sites:
    """Sites of a denoiser or of a bare module."""
    described = getattr(net, "sites", None)
    if isinstance(described, Sites):
        return described
    return Sites([Site("", None, "root"), *layers(net)])


def layers(net: nn.Module) -> Iterator[Site]:
    """Linear, convolution and norm sites of any module, in the order of definition."""
    for name, module in net.named_modules():
        kind = next((kind for kind, classes in LAYERS.items() if isinstance(module, classes)), None)
        if kind is None and type(module).__name__.endswith("RMSNorm"):
            kind = "norm"
        if kind is not None:
            yield Site(name, module, kind, streams={"image": parameters(type(module).forward)[0]})


LAYERS: Mapping[str, tuple[type, ...]] = {
    "linear": (nn.Linear,),
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    "norm": (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
}


@cache
def parameters(function: Any) -> tuple[str, ...]:
    """Names of the arguments of a module's forward."""
    return tuple(p for p in inspect.signature(function).parameters if p != "self")
