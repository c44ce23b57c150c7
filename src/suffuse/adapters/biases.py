"""Changes of biases alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import Refused
from ..core.registry import method
from ..core.site import Site, Sites
from .delta import Delta, Part
from .presets import Where


@method(paper="ppap", tags=("bitfit",))
@dataclass(frozen=True)
class Biases(Delta):
    """Learns changes of the biases of linear layers and convolutions: y = W x + b + db.

    Layers without a bias are left out.

    Args:
        where: preset or fragments of layer names.

    Reference: Ben Zaken et al., BitFit, 2106.10199; beside LoRA in Go et al., 2212.05973.
    """

    where: Where = field(default="full", kw_only=True)

    def sites(self, net: Sites) -> Sequence[Site]:
        found = [s for s in super().sites(net) if getattr(s.module, "bias", None) is not None]
        if not found:
            raise Refused(f"{self}: the layers of this network have no biases; use LoRA")
        return found

    def make(self, site: Site) -> Part:
        bias: Any = site.module.bias  # type: ignore[union-attr]
        return Part({"diff_b": torch.zeros_like(bias, dtype=torch.float32)})

    def weight(self, part: Part, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight)

    def deltas(self, part: Part, module: nn.Module, scale: float = 1.0) -> dict[str, Tensor]:
        return {"bias": scale * part["diff_b"]}

    def around(self, call: Any) -> Any:
        y = call()
        if call.scale == 0.0:
            return y
        change = (call.scale * call.part["diff_b"]).to(y.dtype)
        return y + (change if isinstance(call.site.module, nn.Linear) else change.view(-1, *[1] * (y.ndim - 2)))
