"""How spread out attention is: the entropy of its rows, layer by layer and step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.call import Call
from ..core.denoiser import Denoiser
from ..core.engine import sample
from ..core.errors import Refused
from ..core.patch import Patch
from ..core.registry import method
from ..core.site import Site, Sites


@method(paper="variable-size", tags=("probe",))
def attention_entropy(denoiser: Denoiser, x: Any, *, patches: Sequence[Any] = (), **settings: Any) -> dict[str, Tensor]:
    """Mean entropy -sum_j p_j log p_j of self-attention in a run, in nats: layer -> (steps,).

    Args:
        denoiser, x, settings: as for `sample`; the shape of x says at which size.
        patches: of the run that is measured.

    Raises:
        Refused: a network without self-attention.

    Example:
        >>> plain = attention_entropy(denoiser, (8, 4, 32, 32), sampler=DDIM(), steps=20, cond=cond)
        >>> scaled = attention_entropy(denoiser, (8, 4, 32, 32), sampler=DDIM(), steps=20, cond=cond,
        ...                            patches=[VariableSize()])

    Reference: Jin et al., 2306.08645, section 3.
    """
    probe = _Entropy()
    sample(denoiser, x, patches=[*patches, probe], **settings)
    found: dict[str, list[Tensor]] = {}
    for (layer, _), seen in sorted(probe.seen.items(), key=lambda item: item[0][1]):
        found.setdefault(layer, []).append(torch.cat(seen).mean())
    return {layer: torch.stack(means) for layer, means in found.items()}


@dataclass(frozen=True, eq=False)
class _Entropy(Patch):
    """Notes the entropy of every row of attention, averaged over heads and queries: (layer, step) -> [(B,), ...]."""

    seen: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)

    def sites(self, net: Sites) -> Sequence[Site]:
        found = [s for s in net.attention() if s.role in ("self", "joint")]
        if not found:
            raise Refused("attention_entropy: this network has no self-attention; use a UNet or a transformer")
        return found

    def probs(self, call: Call, p: Tensor) -> Tensor:
        entropy = torch.special.entr(p.double()).sum(-1).mean((1, 2))
        self.seen.setdefault((call.site.name, 0 if call.at is None else call.at.i), []).append(entropy)
        return p
