"""What is known about each architecture; the only place that looks at a network's class."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..core.denoiser import Network
from ..core.errors import BadInput, Refused
from ..core.family import Family
from ..core.prediction import EPS, Kind
from ..core.process import Process

EXAMPLES = {"net": "a torch.nn.Module", "process": "VP()", "kind": "suffuse.core.prediction.EPS"}


def families() -> list[Family]:
    """One instance of every family."""
    from .adm import ADM
    from .dit import DiT
    from .flux import Flux
    from .pixart import PixArt
    from .sd3 import SD3
    from .unet import ConditionalUNet, PlainUNet

    return [ConditionalUNet(), PlainUNet(), SD3(), Flux(), PixArt(), DiT(), ADM()]


def denoiser(net: nn.Module, process: Process, kind: Kind = EPS, reads: Sequence[str] = ()) -> Network:
    """A network of your own, or of diffusers, as what `suffuse.sample` and training take.

    Args:
        net: a module called as net(x, timestep, **entries) that returns a tensor shaped like x; networks of diffusers
            are called as their families are.
        process: the corruption that it is trained on, such as `VP()` or `Flow()`; `process.timestep(t)`, 1000 t of
            most, is what the network is told.
        kind: what it returns: `EPS`, `X0`, `V`, `SCORE` or `FLOW` of suffuse.core.prediction.
        reads: entries of the condition that it is told, by the names of its arguments; those of known families are
            known.

    Raises:
        BadInput: something else in the place of one of these.

    Example:
        >>> digits = suffuse.denoiser(net, VP(), reads=("label",))
        >>> cond = Cond({"label": labels}, {"null": Cond({"label": torch.full_like(labels, 10)})})
        >>> suffuse.sample(digits, (len(labels), 1, 8, 8), sampler=DDIM(), cond=cond, guidance=CFG(2.0)).x
    """
    from .plain import Plain

    for name, value, what in (("net", net, nn.Module), ("process", process, Process), ("kind", kind, Kind)):
        if not isinstance(value, what):
            raise BadInput(f"{name}={value!r:.60}: must be a {what.__name__}, such as {EXAMPLES[name]}")
    family = next((known for known in families() if known.accepts(net)), None)
    return Network(net, family if family and not reads else Plain(tuple(reads)), process, kind)


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
