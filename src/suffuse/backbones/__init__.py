"""What is known about each architecture; the only place that looks at a network's class."""

from __future__ import annotations

from torch import nn

from ..core.errors import Refused
from ..core.family import Family


def families() -> list[Family]:
    """One instance of every family."""
    from .adm import ADM
    from .dit import DiT
    from .flux import Flux
    from .pixart import PixArt
    from .sd3 import SD3
    from .unet import ConditionalUNet, PlainUNet

    return [ConditionalUNet(), PlainUNet(), SD3(), Flux(), PixArt(), DiT(), ADM()]


def family_of(net: nn.Module) -> Family:
    """The family of a network; raises `Refused` for an unknown architecture."""
    for family in families():
        if family.accepts(net):
            return family
    known = ", ".join(f.name for f in families())
    raise Refused(
        f"{type(net).__name__}: no family in suffuse.backbones knows this architecture ({known}); write one, see "
        "docs/add-a-method.md"
    )
