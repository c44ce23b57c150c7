"""DiT: DiTTransformer2DModel, class-conditional."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.family import Family
from ..core.site import Site
from .inputs import check_size, dtype_of, need, without_variance
from .transformer import is_transformer2d, transformer_sites

STREAMS = {"image": "hidden_states"}


class DiT(Family):
    """Transformer on square states with adaptive norms in every layer; its learned variance is dropped.

    Cond entry: "label" (B,), the class; the number of classes itself is the null class.

    Reference: Peebles and Xie, Scalable Diffusion Models with Transformers, 2212.09748.
    """

    name = "DiT"
    reads = ("label",)

    def accepts(self, net: nn.Module) -> bool:
        return type(net).__name__ == "DiTTransformer2DModel" or is_transformer2d(net, "ada_norm_zero")

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        check_size(x, net.config.patch_size, square=True)
        label, timestep = need(cond, "label", "class labels (B,)"), timestep.to(x.device, torch.float32)
        return without_variance(
            net(x.to(dtype_of(net)), timestep=timestep, class_labels=label, return_dict=False)[0], x
        )

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        return transformer_sites("pos_embed", net, {"transformer_blocks": ("image",)}, "proj_out_2", STREAMS)

    def patch(self, net: Any) -> int:
        return net.config.patch_size
