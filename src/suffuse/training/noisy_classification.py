"""Classifiers of noisy states: what classifier guidance is trained with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.noise import Noise
from ..core.process import Process
from ..core.training import Batch, Loss, Objective, Roles
from ..core.value import Coef, batch_size
from .denoising import Times, UniformTimes


@dataclass(frozen=True)
class NoisyClassification(Objective):
    """E_t,eps -log p(y | x_t), the cross-entropy of a classifier that is told the time.

    `batch.data` is x0 and `batch.cond["label"]` y.

    Args:
        process: that of the denoiser which is to be guided.
        role: the classifier to train, called with states and times.
        times: law of t.

    Reference: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, 2105.05233.
    """

    process: Process
    role: str = "classifier"
    times: Times = UniformTimes()

    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        ids, n = batch.ids.tolist(), batch_size(batch.data)

        def draw(like: Tensor, tag: str = "", kind: str = "normal") -> Tensor:
            return getattr(noise, kind)(like, ids, f"corrupt{tag}")

        t = Coef(self.times(noise.uniform(torch.empty(n, 1, dtype=torch.float64), ids, "t")[:, 0]))
        x = self.process.given(batch.cond).corrupt(batch.data, t, draw)
        logits = roles[self.role](x, t)
        return Loss(F.cross_entropy(logits.float(), batch.cond["label"], reduction="none"), {}, t.tensor(n))
