"""Telling a network that predicts noise from one that predicts velocity, by asking it."""

from __future__ import annotations

from typing import Any

import torch

from ..core.model import Model
from ..core.noise import Keyed
from ..core.value import Coef


@torch.no_grad()
def predicts_noise(model: Model) -> bool:
    """True where the network's output at the last timestep is its input: eps there is nearly all of x, v hardly any.

    One evaluation on pure noise of the model's own size, without a prompt.
    """
    net: Any = model.denoiser
    shape = model.codec.space.shape(model.defaults.size)
    x = Keyed(0).normal(torch.zeros(1, *shape, device=model.device), [0], "kind")
    out = net(x, Coef(1.0), model.condition()).value
    return torch.corrcoef(torch.stack([x.flatten(), out.float().flatten()]))[0, 1].item() > 0.5
