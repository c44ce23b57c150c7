"""pix2pix-zero: the target is moved to where its cross-attention looks like the source's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import Refused
from ..core.hook import Hook, StepFunction
from ..core.model import Model
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value, put
from .attention_maps import AttentionMaps
from .branches import pairs_at


@method(paper="pix2pix-zero")
@dataclass(frozen=True)
class Pix2PixZero(Hook):
    """x_t <- x_t - lambda grad_x sum |M_t - M*_t|^2 before every step; M are cross-attention maps, M* the source's.

    Args:
        rate: lambda; 0 leaves the state alone.
        most: maps of more places than this are not compared.

    Example:
        >>> edit(model, image, "a cat", "a dog", editor=[Pix2PixZero()])

    Reference: Parmar et al., Zero-shot Image-to-Image Translation, 2302.03027.

    Differs from the paper: the prompts are given, instead of a source prompt moved along `edit_direction`, and the maps
    are those of the conditional branch.
    """

    rate: float = 0.1
    most: int = 64 * 64

    needs = Needs.COUPLES | Needs.GRADIENT

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        targets, sources = pairs_at(at.samples, step.cond, self)
        watch, inner = AttentionMaps(self.most), step.predict(at)
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            Predict(inner.denoiser.with_(watch), at, (), step.cond)(z, at.t, path="cond")
            if not watch.found:
                raise Refused(f"{self}: no attention was computed at step {at.i + 1}; leave out the cache")
            gaps = [(m[targets] - m[sources].detach()).square() for m in watch.found.values()]
            (slope,) = torch.autograd.grad(torch.stack([gap.sum((2, 3)).mean(1).sum() for gap in gaps]).sum(), z)
        return step(put(x, targets, x[targets] - self.rate * slope[targets]), at)


def edit_direction(model: Model, source: Sequence[str], target: Sequence[str]) -> Tensor:
    """(tokens, width): mean text embedding of sentences with the target's word less that of those with the source's.

    Added to `cond["text"]` of a source prompt it makes a target condition without a target prompt.
    """
    before, after = model.condition(list(source))["text"], model.condition(list(target))["text"]
    return after.mean(0) - before.mean(0)
