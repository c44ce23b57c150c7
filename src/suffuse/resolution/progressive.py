"""Large pictures in phases: each size starts from the picture of the one before, enlarged and noised."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..core.codec import Codec
from ..core.cond import Cond
from ..core.conditioner import Size
from ..core.errors import BadInput
from ..core.expression import unparse
from ..core.generation import CALLBACK
from ..core.grid import Grid
from ..core.guidance import Guidance
from ..core.hook import Hook
from ..core.recipe import Recipe
from .low_band import GUIDE

if TYPE_CHECKING:
    from ..core.generation import Generation, Images


class Progressive(ABC):
    """A way to large pictures, size by size. A frozen dataclass.

    Attributes:
        strength: share of a run's steps that each phase makes, above 0 and at most 1.
    """

    strength: float

    @abstractmethod
    def guide(self, codec: Codec, x0: Tensor, size: tuple[int, int]) -> Cond:
        """What the next phase starts from and follows: "x0", and what its plug-ins need besides.

        Args:
            codec: of the model.
            x0: (B, C, h, w) clean states of the phase before.
            size: of the next phase's states.
        """

    def guided(self, guidance: Guidance, codec: Codec) -> Guidance:
        """The guidance of a phase around that of the run."""
        return guidance

    def hooks(self) -> Sequence[Hook]:
        """The hooks of a phase, around those of the run."""
        return ()

    def sizes(self, first: Size, target: Size, multiple: int) -> list[Size]:
        """Sizes of the phases: `first`, whole multiples of it, `target`."""
        largest = max(t / f for t, f in zip(target, first, strict=True))
        between = [_rounded(target, k / largest, multiple) for k in range(2, math.ceil(largest))]
        return [first, *(size for size in between if first != size != target), *([target] if target != first else [])]

    def first(self, native: Size, target: Size, multiple: int) -> Size:
        """The size of the first phase: of the target's proportions, no side longer than the model's own."""
        return _rounded(target, min(1.0, *(n / t for n, t in zip(native, target, strict=True))), multiple)


def _rounded(size: Size, factor: float, multiple: int) -> Size:
    height, width = (max(1, round(side * factor / multiple)) * multiple for side in size)
    return height, width


def enlarged(
    generation: Generation,
    x0: Tensor | None,
    method: Progressive,
    sizes: Sequence[Size],
    encode: Callable[[Size, Grid], Cond],
    preview: Callable[[Images], None] | None = None,
) -> Images:
    """Pictures of the last of `sizes`.

    Noise belongs to a size, not to its number, so that a run goes on from the states of any phase as if it had never
    been left.

    Args:
        generation: of the first size.
        x0: (B, C, h, w) clean states of the first size; None where they are to be generated.
        method: how sizes follow one another.
        sizes: of all phases, in pixels.
        encode: the condition of pictures of this size, made on this grid.
        preview: called with the pictures of each phase.
    """
    if not 0.0 < method.strength <= 1.0:
        raise BadInput(f"{method}: strength must be above 0 and at most 1")
    made = [] if x0 is not None else [generation.run()]
    if made and preview is not None:
        preview(made[0])
    for size in sizes[1:]:
        phase = _phase(generation, made[-1].latents if x0 is None or made else x0, method, size, encode)
        images = phase.run()
        spent = sum((i.nfe for i in made[-1:]), images.nfe)
        made.append(replace(images, nfe=spent))
        lost = [CALLBACK] if any(CALLBACK in m.recipes[0].get("lost", ()) for m in made) else []
        recipes = [_recipe(r, method) for r in replace(generation, shape=phase.shape).recipes(lost)]
        made[-1] = replace(made[-1], recipes=recipes)
        if preview is not None:
            preview(made[-1])
    if not made:
        raise BadInput(f"height={sizes[0][0]}, width={sizes[0][1]}: the picture has this size already; give another")
    return made[-1]


def _phase(
    generation: Generation, x0: Tensor, method: Progressive, size: Size, encode: Callable[[Size, Grid], Cond]
) -> Generation:
    """The run that makes pictures of this size from the states of the phase before."""
    model, space = generation.model, generation.model.codec.space
    shape = space.shape(size)
    whole = generation.spacing.grid(model.denoiser.process, generation.grid.n, shape)
    grid = Grid(whole.times[whole.n - max(1, round(method.strength * whole.n)) :])
    noise = generation.noise.fold(f"{size[0]}x{size[1]}")
    parts = x0.split(generation.batch)
    guide = Cond.cat([method.guide(model.codec, part, (shape[1], shape[2])) for part in parts])
    cond = encode(size, grid)
    z = noise.normal(guide["x0"], generation.ids, "start")
    return replace(
        generation,
        shape=shape,
        grid=grid,
        noise=noise,
        source=None,
        cond=cond.with_alt(**{GUIDE: guide | {"noise": z}}),
        latents=model.denoiser.process.given(cond).marginal(guide["x0"], grid.node(0)).at(z),
        guidance=method.guided(generation.guidance, model.codec),
        hooks=[*method.hooks(), *generation.hooks],
    )


def _recipe(of_run: Recipe, method: Progressive) -> Recipe:
    """The recipe of a run of one size, with the method; its strength takes the place of the run's."""
    return {k: v for k, v in {**of_run, "upscale": unparse(method)}.items() if k != "strength"}


def bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, *size) of (B, C, h, w)."""
    return F.interpolate(x, size, mode="bicubic", align_corners=False)
