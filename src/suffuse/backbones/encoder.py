"""Text encoders, image encoders and autoencoders as networks with sites, so that patches and adapters work on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ..core.call import Frame, using
from ..core.cond import Cond
from ..core.patch import Adapter, Patch
from ..core.site import Site, Sites, layers
from ..core.tap import bind
from ..core.value import Coef

STREAM = {"image": "hidden_states", "text": "hidden_states", "temb": "temb"}
KINDS = {
    "CLIPEncoderLayer": ("block", "transformer"),
    "CLIPAttention": ("attention", "self"),
    "CLIPMLP": ("unit", "feedforward"),
    "Attention": ("attention", "self"),
    "ResnetBlock2D": ("unit", "resnet"),
}
"""Class of a module -> (kind, role) of its site."""


class Encoder(nn.Module):
    """A network that is no denoiser, called as it always was, with patches and adapters of its own.

    Args:
        net: a CLIPTextModel, an AutoencoderKL or another module.
        items: patches and adapters, the first outermost.
    """

    def __init__(self, net: nn.Module, *items: Patch | Adapter):
        super().__init__()
        self.net = net
        self.sites = Sites([Site("", None, "root"), *_inside(net), *layers(net)])
        self.adapters = nn.ModuleList([i for i in items if isinstance(i, Adapter)])
        self.items = items
        self.bindings = tuple(bind(i, self) for i in items)

    def with_(self, *items: Patch | Adapter) -> Encoder:
        """A view with patches or adapters around those that it has; weights are shared."""
        return Encoder(self.net, *items, *self.items)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)  # configuration, device and the like

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own output."""
        with using(frame=Frame(self.bindings, Coef(0.0), Cond(), (), None) if self.bindings else None):
            return self.net(*args, **kwargs)


def _inside(net: nn.Module) -> Iterator[Site]:
    modules = [(name, module) for name, module in net.named_modules() if type(module).__name__ in KINDS]
    known = [(name, module, *KINDS[type(module).__name__]) for name, module in modules]
    for k, (name, module, kind, role) in enumerate(known):
        streams = {**STREAM, "image": "input_tensor"} if role == "resnet" else STREAM
        keys = ("text" if type(module).__name__.startswith("CLIP") else "image",) if kind == "attention" else ()
        yield Site(name, module, kind, role, "body", k / max(len(known) - 1, 1), streams, keys or ("image",), keys)
