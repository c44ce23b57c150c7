"""Which layers an adapter changes: presets by name, as LyCORIS calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..core.errors import BadInput, Refused, nearest
from ..core.site import Site, Sites

Where = str | tuple[str, ...]
"""Name of a preset, or fragments of the names of layers."""


def _inside(net: Sites, outer: Iterable[Site]) -> list[Site]:
    roots = tuple(f"{site.name}." for site in outer)
    return [site for site in net if site.name.startswith(roots)]


def _of_role(net: Sites, *roles: str) -> list[Site]:
    return _inside(net, [s for s in net.units if s.role in roles])


def _transformers(net: Sites) -> list[Site]:
    outer = [s for s in net if s.kind in ("block", "unit") and s.role == "transformer"]
    return [s for s in _inside(net, outer) if s.kind == "norm" or ".norm" not in s.name]


PRESETS: dict[str, Callable[[Sites], list[Site]]] = {
    "full": list,
    "full-lin": lambda net: [s for s in net if s.kind in ("linear", "norm")],
    "attn-mlp": _transformers,
    "attn-only": lambda net: _inside(net, net.attention()),
    "cross-attn-only": lambda net: _inside(net, net.attention("cross")),
    "unet-convblock-only": lambda net: _of_role(net, "resnet", "down", "up"),
    "resolution": lambda net: [*_of_role(net, "down", "up"), *(s for s in _of_role(net, "resnet") if s.kind == "norm")],
}
"""Name -> layers: all; all linear ones; those of transformer layers but for the modulation of norms; those of
attention; those of cross-attention; those of resnets and samplers; those of samplers, and the norms of resnets."""


def chosen(net: Sites, where: Where, kinds: Sequence[str]) -> list[Site]:
    """Sites of these kinds that a preset or fragments of names select, in the order of the network.

    Raises:
        BadInput: no such preset. Refused: the network has no such layer.
    """
    if isinstance(where, str):
        if where not in PRESETS:
            raise BadInput(
                f"where={where!r}: no such preset; {nearest(where, PRESETS)}; or give a tuple of name fragments"
            )
        found = PRESETS[where](net)
    else:
        found = net.named(*where)
    wanted = {site.name for site in found}
    sites = [site for site in net if site.name in wanted and site.kind in kinds]
    if not sites:
        what = f"where={where!r}: this network has no such {' or '.join(kinds)} layer"
        raise Refused(f"{what}; use where='full', or Encoder(net) for a text encoder")
    return sites
