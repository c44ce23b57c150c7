"""U-ViT: a transformer on patches whose early layers are handed to the late ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from ..backbones.inputs import check_size
from ..backbones.transformer import transformer_sites
from ..core.cond import Cond
from ..core.family import Family
from ..core.site import Site
from ..core.tokens import to_patches, to_picture


class UViTBlock(BasicTransformerBlock):
    """A layer of self-attention and feed-forward; a late one first joins its input with an early layer's output."""

    def __init__(self, width: int, heads: int, late: bool):
        super().__init__(width, heads, width // heads)
        self.skip = nn.Linear(2 * width, width) if late else None

    def forward(self, hidden_states: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, tokens, width)."""
        if self.skip is not None and skip is not None:
            hidden_states = self.skip(torch.cat([hidden_states, skip], 2))
        return super().forward(hidden_states)


class UViT(nn.Module):
    """Time, class and patches are all tokens of one transformer, with long skips between its halves.

    Args:
        shape: (C, H, W) of one state.
        patch: side of a patch.
        width: of a token.
        depth: layers, odd or even; with an even number the first of the late half has no skip.
        heads: of attention.
        classes: of labels, the null class among them; 0 is without.

    Reference: Bao et al., All are Worth Words: A ViT Backbone for Diffusion Models, 2209.12152.

    Differs from the paper: no convolution behind the last layer.
    """

    def __init__(
        self, shape: tuple[int, int, int], patch: int = 2, width: int = 128, depth: int = 9, heads: int = 4,
        classes: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.shape, self.patch = tuple(shape), patch
        channels, rows, columns = shape[0], shape[1] // patch, shape[2] // patch
        self.entry = nn.Linear(channels * patch**2, width)
        self.steps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.labels = nn.Embedding(classes, width) if classes else None
        self.told = 2 if classes else 1
        self.places = nn.Parameter(0.02 * torch.randn(self.told + rows * columns, width))
        self.skips = depth // 2
        late = [k >= depth - self.skips for k in range(depth)]
        self.layers = nn.ModuleList([UViTBlock(width, heads, own) for own in late])
        self.norm = nn.LayerNorm(width)
        self.exit = nn.Linear(width, channels * patch**2)

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, C, H, W) of states of this shape at timesteps (B,), with classes (B,) where the network has them."""
        told = [self.steps(timestep)[:, None].to(x)]
        if self.labels is not None:
            told.append(self.labels(label)[:, None])
        h = torch.cat([*told, self.entry(to_patches(x, self.patch))], 1) + self.places
        early: list[Tensor] = []
        for k, layer in enumerate(self.layers):
            h = layer(h) if layer.skip is None else layer(h, early.pop())
            if k < self.skips:
                early.append(h)
        return to_picture(self.exit(self.norm(h))[:, self.told :], self.patch, *x.shape[1:])


class UViTFamily(Family):
    """The family of `UViT`.

    Cond entry: "label" (B,) where the network has classes.
    """

    name = "UViT"
    reads = ("label",)

    def accepts(self, net: nn.Module) -> bool:
        return isinstance(net, UViT)

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        check_size(x, net.patch)
        return net(x, timestep.to(x.device, torch.float32), cond.get("label"))

    def blocks(self, net: nn.Module) -> Iterator[Site]:
        return transformer_sites("entry", net, {"layers": ("image",)}, "exit", {"image": "hidden_states"})

    def shape(self, net: Any) -> tuple[int, ...]:
        return net.shape

    def patch(self, net: Any) -> int:
        return net.patch
