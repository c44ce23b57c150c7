"""Distillation of a light network from the one that it was assembled from, on outputs and on features of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.call import Call
from ..core.denoiser import Denoiser
from ..core.noise import Noise
from ..core.patch import Patch
from ..core.site import Site, Sites
from ..core.training import Batch, Loss, Objective, Roles
from ..core.value import Coef, batch_size
from .denoising import Times, UniformTimes


@dataclass(frozen=True)
class BlockDistillation(Objective):
    """E  |v_S - v_T|^2 + features * mean_b |f_b,S - f_b,T|^2 / |f_b,T|^2, at states of data noised to time t.

    v are outputs of student and teacher, f_b what their blocks b return.

    Args:
        blocks: names of blocks or units that both have, with outputs of one shape.
        features: weight of the second term; 0 leaves it out.
        student, teacher: roles.
        times: law of t.

    Example:
        >>> Trainer({"student": light, "teacher": model.denoiser}, Phase(BlockDistillation(("up_blocks.2",)),
        ...         trains="student"))

    Reference: Zhang et al., A-SDM: Accelerating Stable Diffusion through Model Assembly and Feature Inheritance
    Strategies, 2406.00210.
    """

    blocks: tuple[str, ...] = ()
    features: float = 1.0
    student: str = "student"
    teacher: str = "teacher"
    times: Times = UniformTimes()

    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        ids, n = batch.ids.tolist(), batch_size(batch.data)

        def draw(like: Tensor, tag: str = "", kind: str = "normal") -> Tensor:
            return getattr(noise, kind)(like, ids, f"corrupt{tag}")

        student, teacher = roles[self.student], roles[self.teacher]
        assert isinstance(student, Denoiser) and isinstance(teacher, Denoiser)
        t = Coef(self.times(noise.uniform(torch.empty(n, 1, dtype=torch.float64), ids, "t")[:, 0]))
        x = student.process.given(batch.cond).corrupt(batch.data, t, draw)
        theirs, own = Outputs(self.blocks), Outputs(self.blocks)
        with torch.no_grad():
            goal: Any = teacher.with_(theirs)(x, t, batch.cond)
        found: Any = student.with_(own)(x, t, batch.cond)
        output = ((found.value - goal.value) ** 2).flatten(1).mean(1)
        if not self.blocks or not self.features:
            return Loss(output, {}, t.tensor(n))
        like = torch.stack([_relative(own.of[name], theirs.of[name]) for name in self.blocks]).mean(0)
        return Loss(output + self.features * like, {"output": output, "features": like}, t.tensor(n))


def _relative(found: Tensor, goal: Tensor) -> Tensor:
    """(B,) |found - goal|^2 / |goal|^2."""
    return ((found - goal) ** 2).flatten(1).sum(1) / (goal**2).flatten(1).sum(1).clamp(min=1e-12)


@dataclass(frozen=True, eq=False)
class Outputs(Patch):
    """Keeps what blocks and units return, the first tensor of it, with its gradient."""

    names: Sequence[str]
    of: dict[str, Tensor] = field(default_factory=dict)

    def sites(self, net: Sites) -> list[Site]:
        return [s for s in net if s.name in self.names and s.kind in ("block", "unit")]

    def around(self, call: Call) -> Any:
        out = call()
        self.of[call.site.name] = next(v for v in pytree.tree_leaves(out) if isinstance(v, Tensor))
        return out
