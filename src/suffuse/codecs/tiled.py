"""Encoding and decoding of large pictures tile by tile, with the result of the whole picture."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.denoiser import EMPTY
from ..core.errors import BadInput
from ..core.law import Draw
from .autoencoder import VAE


class TiledVAE(VAE):
    """The autoencoder's own result, to rounding, with memory for one tile of its large maps.

    Tiles are decoded with a margin as wide as their outputs can see, which is cut off. Group norms need statistics of
    the whole picture: for one after the other they are gathered in a pass over all tiles that ends there. What works
    at the latents' own size, attention included, is done whole. diffusers' `enable_tiling` normalises and attends in
    each tile by itself and blends the differences.

    A pass repeats what comes before its norm: the price is about (norms of the largest maps + 1) times the work, times
    that of the margins. Pictures no larger than a tile are done as ever.

    Args:
        vae: diffusers' AutoencoderKL.
        tile: side of a tile, in latents.

    Raises:
        BadInput: an autoencoder of another kind, or a tile smaller than 1.

    Example:
        >>> large = model.with_codec(TiledVAE(model.codec.vae)).generate("a red circle", height=1024, width=1024)
    """

    def __init__(self, vae: Any, tile: int = 64):
        if not hasattr(getattr(vae, "decoder", None), "up_blocks"):
            raise BadInput(f"vae: {type(vae).__name__} has no blocks to work on tile by tile; give an AutoencoderKL")
        if tile < 1:
            raise BadInput(f"tile={tile}: give a side of 1 latent or more")
        super().__init__(vae)
        self.tile = tile

    def encode(self, data: Tensor, noise: Draw | None = None) -> tuple[Tensor, Cond]:
        factor, net = self.space.factor, self.vae.encoder
        if max(data.shape[-2:]) <= self.tile * factor:
            return super().encode(data, noise)
        margin = _margin([len(block.resnets) for block in net.down_blocks][::-1])
        h = _by_tiles([net.conv_in, *net.down_blocks], data.to(self.vae.dtype), factor, 1, self.tile, margin)
        h = net.conv_out(net.conv_act(net.conv_norm_out(net.mid_block(h))))
        mean, log_variance = (h if self.vae.quant_conv is None else self.vae.quant_conv(h)).chunk(2, 1)
        z = mean if noise is None else mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise(mean)
        return ((z - self.shift) * self.scale).to(data.dtype), EMPTY

    def decode(self, value: Tensor, cond: Cond = EMPTY) -> Tensor:
        if max(value.shape[-2:]) <= self.tile:
            return super().decode(value, cond)
        z, net = (value / self.scale + self.shift).to(self.vae.dtype), self.vae.decoder
        h = net.mid_block(net.conv_in(z if self.vae.post_quant_conv is None else self.vae.post_quant_conv(z)))
        tail = [*net.up_blocks, net.conv_norm_out, net.conv_act, net.conv_out]
        margin = _margin([len(block.resnets) for block in net.up_blocks])
        return _by_tiles(tail, h, 1, self.space.factor, self.tile, margin).to(value.dtype)


def _margin(resnets: Sequence[int]) -> int:
    """Latents that an output sees to each side; `resnets` of each block, that of the latents' size first.

    Each resnet sees 2 entries of its own size further, a change of size 2, and so does what is at the other end.
    """
    return int(sum((2 * n + 2) / 2**level for level, n in enumerate(resnets))) + 2


@dataclass(eq=False)
class _Tile:
    """One tile in latents: where it lies with its margin, and which part of it is its own."""

    outer: tuple[slice, slice]
    inner: tuple[slice, slice]

    def own(self, h: Tensor) -> Tensor:
        """The own part of maps of the tile, of any size."""
        rows, columns = (
            slice(i.start * side // (o.stop - o.start), i.stop * side // (o.stop - o.start))
            for o, i, side in zip(self.outer, self.inner, h.shape[-2:], strict=True)
        )
        return h[..., rows, columns]


def _tiles(size: tuple[int, int], tile: int, margin: int) -> Iterator[_Tile]:
    for top in range(0, size[0], tile):
        for left in range(0, size[1], tile):
            inner, outer = [], []
            for first, length in ((top, size[0]), (left, size[1])):
                last, begin = min(first + tile, length), max(0, first - margin)
                outer.append(slice(begin, min(last + margin, length)))
                inner.append(slice(first - begin, last - begin))
            yield _Tile((outer[0], outer[1]), (inner[0], inner[1]))


class _Enough(Exception):
    """A pass has reached the norm whose statistics it gathers."""


class _WholeNorm(nn.Module):
    """A group norm with the statistics of the whole picture: gathers them tile by tile, then uses them."""

    def __init__(self, norm: nn.GroupNorm, at: list[_Tile]):
        super().__init__()
        self.norm, self.at = norm, at
        self.sums: Tensor | float = 0.0
        self.count, self.known = 0, False

    def forward(self, x: Tensor) -> Tensor:
        if not self.known:
            groups = self.at[0].own(x).double().unflatten(1, (self.norm.num_groups, -1)).flatten(2)
            self.sums = self.sums + torch.stack([groups.sum(2), (groups**2).sum(2)])
            self.count += groups.shape[2]
            raise _Enough
        assert isinstance(self.sums, Tensor)
        mean, square = self.sums / self.count
        scale = (square - mean**2 + self.norm.eps).rsqrt()
        shape = (len(x), self.norm.num_groups, 1, 1, 1)
        grouped = x.unflatten(1, (self.norm.num_groups, -1))
        out = ((grouped - mean.view(shape).to(x)) * scale.view(shape).to(x)).flatten(1, 2)
        return out * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]


def _by_tiles(modules: Sequence[nn.Module], x: Tensor, before: int, after: int, tile: int, margin: int) -> Tensor:
    """A chain of convolutional modules on x (B, C, h, w), with `before` entries of x and `after` of the result to each
    latent."""
    at: list[_Tile] = []
    net, norms = _with_whole_norms(nn.Sequential(*modules), at)
    size = x.shape[-2] // before, x.shape[-1] // before
    while True:
        out: Tensor | None = None
        for place in _tiles(size, tile, margin):
            at[:] = [place]
            rows, columns = (slice(s.start * before, s.stop * before) for s in place.outer)
            try:
                part = place.own(net(x[..., rows, columns]))
            except _Enough:
                continue
            if out is None:
                out = part.new_empty((*part.shape[:2], size[0] * after, size[1] * after))
            top, left = ((o.start + i.start) * after for o, i in zip(place.outer, place.inner, strict=True))
            out[..., top : top + part.shape[-2], left : left + part.shape[-1]] = part
        if out is not None:
            return out
        for norm in norms:
            norm.known = norm.known or norm.count > 0


def _with_whole_norms(net: nn.Module, at: list[_Tile]) -> tuple[nn.Module, list[_WholeNorm]]:
    """The same modules with the same weights, and other group norms."""
    memo = {id(p): p for p in [*net.parameters(), *net.buffers()]}
    twin, norms = copy.deepcopy(net, memo), []
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                norms.append(_WholeNorm(child, at))
                setattr(parent, name, norms[-1])
    return twin, norms
