"""Local blend: outside of the words in question the target is put back to the source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.cond import Cond
from ..core.hook import Hook, StepFunction
from ..core.plugin import Needs
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value, put
from .attention_maps import AttentionMaps
from .branches import Pairs, pairs_at
from .words import alignment, labels, tokens_of


@method(paper="prompt-to-prompt")
@dataclass(frozen=True)
class LocalBlend(Hook):
    """z_t <- z^src_t + m (z_t - z^src_t), m where source or target attended to certain words.

    The maps of those words are averaged over heads, layers and the steps so far, spread by a maximum over 3 x 3 cells,
    divided by their maximum and cut at a threshold.

    Args:
        words: of either prompt, in lower case; empty are those by which the two differ.
        threshold: share of the maximum above which a place belongs to the words.
        start: share of the run after which the blend begins.
        most: maps of more places than this are not used; of the others, those on the finest grid are.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", editor=[PromptToPrompt(), LocalBlend(("circle",))])

    Reference: Hertz et al., Prompt-to-Prompt Image Editing with Cross Attention Control, 2208.01626.
    """

    words: tuple[str, ...] = ()
    threshold: float = 0.3
    start: float = 0.2
    most: int = 16 * 16

    needs = Needs.COUPLES

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        watch = AttentionMaps(self.most)
        z = step.using(patches=[watch])(x, at)
        pairs = targets, sources = pairs_at(at.samples, step.cond, self)
        finest = max((m.shape[2] for m in watch.found.values()), default=0)
        if not finest:
            return z
        maps = torch.stack([m.mean(1) for m in watch.found.values() if m.shape[2] == finest]).mean(0)
        heat = (maps @ self._marked(step.cond, pairs, maps.shape[2]).to(maps)[:, :, None])[..., 0]
        heat = heat + at.memory.get("heat", 0.0)
        at.memory["heat"] = heat
        if at.progress < self.start:
            return z
        mask = self._mask(heat, z.shape[-2:])
        mask = torch.maximum(mask[sources], mask[targets])
        return put(z, targets, z[sources] + mask * (z[targets] - z[sources]))

    def _mask(self, heat: Tensor, size: Sequence[int]) -> Tensor:
        height = round(math.sqrt(heat.shape[1] * size[0] / size[1]))
        grid = F.max_pool2d(heat.reshape(len(heat), 1, height, -1), 3, 1, 1)
        grid = F.interpolate(grid, tuple(size))
        top = grid.amax((2, 3), keepdim=True)
        return ((grid > self.threshold * top) & (top > 0)).to(heat)

    def _marked(self, cond: Cond, pairs: Pairs, length: int) -> Tensor:
        """(B, tokens) 1 on the tokens in question."""
        marked = torch.zeros(cond.rows or 0, length)
        for t, s in zip(*pairs, strict=True):
            if self.words:
                marked[t], marked[s] = (tokens_of(self.words, cond.spans[row], length) for row in (t, s))
            else:
                share, taken = alignment(labels(cond, s, length, self), labels(cond, t, length, self))
                marked[t], marked[s] = (~taken).float(), (~share.any(1)).float()
        return marked
