"""Knowledge transfer without data: readers of noisy states learn from one of clean states, on generated pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.noise import Noise
from ..core.process import Process
from ..core.training import Batch, Loss, Objective, Roles
from ..core.value import Coef, batch_size
from ..networks.experts import Experts
from .denoising import Times, UniformTimes


class Likeness(ABC):
    """How far a student's output is from its teacher's."""

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B,) losses of outputs (B, ...)."""


@dataclass(frozen=True)
class SoftLabels(Likeness):
    """KL(softmax(teacher / temperature) || softmax(student)) over axis 1, averaged over the others.

    For classifiers and for segmentation.

    Args:
        temperature: of the teacher alone; below 1 it is surer than it was.
    """

    temperature: float = 0.25

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        goal, found = (teacher.float() / self.temperature).log_softmax(1), student.float().log_softmax(1)
        return (goal.exp() * (goal - found)).sum(1).reshape(len(student), -1).mean(1)


@dataclass(frozen=True)
class Regression(Likeness):
    """Mean squared difference: for depth and other maps."""

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return ((student.float() - teacher.float()) ** 2).flatten(1).mean(1)


@dataclass(frozen=True)
class KnowledgeTransfer(Objective):
    """E_t,eps  L(expert_n(t)(x_t), teacher(x0)), without labels; experts learn side by side, each in its range of t.

    `batch.data` is x0, which the generator itself made.

    Args:
        process: that of the denoiser which is to be guided.
        likeness: L.
        role: the `Experts`.
        times: law of t.

    Reference: Go et al., Towards Practical Plug-and-Play Diffusion Models, 2212.05973.
    """

    process: Process
    likeness: Likeness = SoftLabels()
    role: str = "experts"
    times: Times = UniformTimes()

    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        ids, n = batch.ids.tolist(), batch_size(batch.data)

        def draw(like: Tensor, tag: str = "", kind: str = "normal") -> Tensor:
            return getattr(noise, kind)(like, ids, f"corrupt{tag}")

        experts = roles[self.role]
        assert isinstance(experts, Experts)
        t = Coef(self.times(noise.uniform(torch.empty(n, 1, dtype=torch.float64), ids, "t")[:, 0]))
        with torch.no_grad():
            teacher = experts.clean(batch.data)
        student = experts(self.process.given(batch.cond).corrupt(batch.data, t, draw), t)
        return Loss(self.likeness(student, teacher), {}, t.tensor(n))
