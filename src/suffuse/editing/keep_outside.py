"""Keeping what lies outside of a mask: in the states during an edit, and in the pixels after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.hook import Hook, StepFunction
from ..core.plugin import Needs
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value, put
from .branches import pairs_at, place


def to_grid(mask: Tensor, size: Sequence[int]) -> Tensor:
    """(B, 1, h, w): a mask of pixels (B, 1, H, W) on the grid of states, each cell as free as its pixels on average.

    So masked generation does it too. The maximum would let thin strokes and borders change as a whole, and what then
    grows over the border is cut off by `composite`: seams came out a third stronger.
    """
    return F.adaptive_avg_pool2d(mask, (size[0], size[1]))


def composite(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """(B, C, H, W): m after + (1 - m) before; where m is 0 or 1 it is the one or the other to the bit.

    Args:
        before, after: (B, C, H, W) pixels or states.
        mask: (B, 1, H, W) in [0, 1].
    """
    return torch.lerp(before, after, mask.to(before))


@method(tags=("editing", "inpainting"))
@dataclass(frozen=True)
class KeepOutside(Hook):
    """z_t <- m z_t + (1 - m) z^src_t after every step, in an edit with a source branch; m is the user's mask.

    Soft masks blend. With Direct Inversion the source branch is the picture's own path, so that the outside comes out
    as the codec gives it back; `composite` with the picture makes it equal to the bit.

    Raises:
        BadInput: no mask was given.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", mask="mask.png", editor=KeepOutside())

    Reference: Avrahami et al., Blended Latent Diffusion, 2206.02779.

    Differs from the paper: what is kept is the source branch at the same step instead of a newly noised picture.
    """

    needs = Needs.COUPLES
    places = ("mask",)

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        z = step(x, at)
        targets, sources = pairs_at(at.samples, step.cond, self)
        mask = to_grid(place(step.cond, "mask", self), z.shape[-2:])
        return put(z, targets, composite(z[sources], z[targets], mask[targets]))


@method(tags=("inpainting",))
@dataclass(frozen=True)
class KeepPath(Hook):
    """z_s <- m z_s + (1 - m) z*_s after every step, where z* is a path that is known: of an inversion or another run.

    `cond.alt[path]` holds "states" (B, k + 1, ...), z* of each sample at the last k + 1 times of the grid, and "mask"
    (B, 1, h, w), 1 where the state is free. `.during(start, stop)` keeps to it in a part of the run.

    Args:
        path: name of that alternative.

    Raises:
        BadInput: there is no such alternative.
    """

    path: str = "path"

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        known = step.cond.alt.get(self.path, Cond())
        if not {"states", "mask"} <= known.keys():
            raise BadInput(f"{self}: give cond.with_alt({self.path}=Cond(...)) with states and mask")
        return composite(known["states"][:, at.i - at.n], step(x, at), known["mask"])
