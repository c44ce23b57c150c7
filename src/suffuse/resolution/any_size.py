"""Any-Size-Diffusion: any proportions by training on buckets of them, any size by tiles that move."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..adapters.lora import LoRA
from ..core.codec import Codec
from ..core.cond import Cond
from ..core.conditioner import Size
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.model import Model
from ..core.noise import Noise
from ..core.patch import Patch
from ..core.registry import method
from ..core.training import Batch, Roles, Source
from ..training.sources import Shuffled, seekable
from .progressive import Progressive, bicubic
from .shifted_tiles import FSTD
from .views import Views

RATIOS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0, 3 / 2, 2.0, 3.0, 4.0)


@method(paper="any-size-diffusion")
@dataclass(frozen=True)
class ARAD:
    """Any ratio adaptability diffusion: an adapter trained on pictures of several proportions, each batch of one of
    them; pictures are then made at the nearest.

    The bucket of ratio r has the area A max(r, 1/r)^growth, with A the native one.

    Args:
        ratios: width / height of the buckets.
        adapter: what is trained.
        growth: 0 keeps the native area, 1 the native length of the shorter side.

    Raises:
        BadInput: no ratio, one that is not above 0, or a growth that is not finite.

    Example:
        >>> arad = ARAD()
        >>> lora = arad.adapter.on(model.denoiser)
        >>> source = arad.source(model, pictures, captions)
        >>> roles = {"model": model.denoiser.with_(lora), "lora": lora}
        >>> Trainer(roles, Phase(Denoising(), trains="lora")).fit(source, steps=1000)
        >>> height, width = arad.nearest((512, 1024), model.defaults.size, model.defaults.multiple)

    Reference: Zheng et al., Any-Size-Diffusion: Toward Efficient Text-Driven Synthesis for Any-Size HD Images,
    2308.16582.

    Differs from the paper: the list of ratios and the adapter are ours; buckets are drawn equally often.
    """

    ratios: tuple[float, ...] = RATIOS
    adapter: Patch = LoRA(16)
    growth: float = 0.0

    def __post_init__(self) -> None:
        if not self.ratios or min(self.ratios) <= 0:
            raise BadInput(f"ARAD(ratios={self.ratios}): give one ratio or more, all above 0")
        if not math.isfinite(self.growth):
            raise BadInput(f"ARAD(growth={self.growth}): give a finite power, 0 for the native area")

    def sizes(self, native: Size, multiple: int) -> list[Size]:
        """Height and width of each bucket."""
        areas = [math.prod(native) * max(r, 1 / r) ** self.growth for r in self.ratios]
        both = [(math.sqrt(area / r), math.sqrt(area * r)) for area, r in zip(areas, self.ratios, strict=True)]
        return [(_whole(height, multiple), _whole(width, multiple)) for height, width in both]

    def nearest(self, size: Size, native: Size, multiple: int) -> Size:
        """The bucket whose proportions are nearest to those of a size."""
        wanted = math.log(size[1] / size[0])
        return min(self.sizes(native, multiple), key=lambda s: abs(math.log(s[1] / s[0]) - wanted))

    def source(
        self, model: Model, pictures: Tensor, captions: Sequence[Any], keep: Tensor | None = None, batch: int = 16,
        seed: int = 0,
    ) -> Balanced:  # fmt: skip
        """Batches of one bucket each, of pictures cut so that they still show what their captions say.

        Args:
            model: whose codec and conditioner are used.
            pictures: (N, 3, H, W) in [-1, 1].
            captions: N prompts.
            keep: (N, 4) top, left, bottom, right of what a caption speaks of, in shares of the sides. A picture that
                cannot be cut around it is not in that bucket. None: the middle is kept.
            batch: rows of a batch; a bucket with fewer pictures is left out.
            seed: of the order.
        """
        sources: dict[Size, Source] = {}
        for size in self.sizes(model.defaults.size, model.defaults.multiple):
            cuts = [
                cut_around(p, size, (0.5, 0.5, 0.5, 0.5) if keep is None else keep[k].tolist())
                for k, p in enumerate(pictures)
            ]
            rows = [k for k, found in enumerate(cuts) if found is not None]
            if len(rows) < batch:
                continue
            latents = torch.cat([model.encode(torch.stack(part)) for part in _parts([cuts[k] for k in rows], 32)])
            cond = model.condition([captions[k] for k in rows], size=size)
            sources[size] = Shuffled(latents, cond, batch, seed, torch.tensor(rows))
        return Balanced(sources)


def _whole(side: float, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


def _parts(values: list[Any], n: int) -> list[list[Any]]:
    return [values[k : k + n] for k in range(0, len(values), n)]


def cut_around(picture: Tensor, size: Size, keep: Sequence[float]) -> Tensor | None:
    """(3, *size) of a picture (3, H, W), scaled to cover the size; None where `keep` does not fit into it."""
    factor = max(size[0] / picture.shape[1], size[1] / picture.shape[2])
    whole = [max(side, round(factor * old)) for side, old in zip(size, picture.shape[1:], strict=True)]
    first = []
    for axis in range(2):
        low, high = (keep[axis + k] * whole[axis] for k in (0, 2))
        if high - low > size[axis]:
            return None
        start = round((low + high - size[axis]) / 2)
        first.append(min(max(start, 0), whole[axis] - size[axis]))
    scaled = F.interpolate(picture[None], whole, mode="bicubic", antialias=True)[0].clamp(-1, 1)
    return scaled[:, first[0] : first[0] + size[0], first[1] : first[1] + size[1]]


@dataclass(frozen=True, eq=False)
class Balanced:
    """Batches from one of several sources, each as often as any other.

    Args:
        sources: size -> batches of that size.

    Raises:
        BadInput: no source.
    """

    sources: Mapping[Size, Source]

    def __post_init__(self) -> None:
        if not self.sources:
            raise BadInput("sources: none has enough pictures for a batch; give more pictures or a smaller batch")

    def __call__(self, roles: Roles, noise: Noise, step: int) -> Batch:
        u = noise.uniform(torch.empty(1, 1, dtype=torch.float64), [0], "bucket")
        k = int(u.item() * len(self.sources))
        return seekable(list(self.sources.values())[k])(roles, noise, step)


@method(paper="any-size-diffusion")
@dataclass(frozen=True)
class AnySizeDiffusion(Progressive):
    """A picture of the nearest proportions at the native area, then one phase to the exact size: enlarged, noised and
    denoised in tiles that move.

    Args:
        strength: share of the steps that the second stage makes.
        arad: buckets that the model knows; its adapter is not applied here.
        tiles: of the second stage.

    Example:
        >>> model.with_(lora).generate("a red circle", height=128, width=256, upscale=AnySizeDiffusion())

    Reference: Zheng et al., Any-Size-Diffusion: Toward Efficient Text-Driven Synthesis for Any-Size HD Images,
    2308.16582.

    Differs from the paper: the second stage is the model itself at little noise, not one that is told the picture.
    """

    strength: float = 0.3
    arad: ARAD = ARAD()
    tiles: Views = FSTD()

    def first(self, native: Size, target: Size, multiple: int) -> Size:
        return self.arad.nearest(target, native, multiple)

    def sizes(self, first: Size, target: Size, multiple: int) -> list[Size]:
        return [first, target] if first != target else [first]

    def guide(self, codec: Codec, x0: Tensor, size: tuple[int, int]) -> Cond:
        factor = codec.space.factor
        pixels = bicubic(codec.decode(x0), (size[0] * factor, size[1] * factor))
        return Cond({"x0": codec.encode(pixels.clamp(-1, 1))[0]})

    def guided(self, guidance: Guidance, codec: Codec) -> Guidance:
        return self.tiles | guidance
