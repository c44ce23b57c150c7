"""Guidance as an input of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..core.cond import Cond
from ..core.guidance import Guidance
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value, batch_size, leaves


@method()
@dataclass(frozen=True)
class Embedded(Guidance):
    """e = e(x, c, w): the scale is told to a network that was distilled from guided predictions (FLUX.1-dev).

    One evaluation a step. `CFG(4) | Embedded(3.5)` guides such a network by a negative prompt as well.

    Args:
        w: guidance scale.

    Raises:
        Refused: a network that has no input for it.

    Reference: Meng et al., On Distillation of Guided Diffusion Models, 2210.03142.
    """

    w: float = 3.5

    evaluations = 1

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        scale = torch.full((batch_size(x),), float(self.w), device=leaves(x)[0].device)
        return predict(x, t, cond | {"guidance_scale": scale})
