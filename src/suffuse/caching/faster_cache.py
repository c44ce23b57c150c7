"""FasterCache: attention outputs extrapolated from the last two, and the unconditional branch from the conditional."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.call import Call
from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.site import Site, Sites
from ..core.step import Step
from ..core.value import Coef, Value
from .policy import CacheTable
from .pyramid_broadcast import attentions


@method(paper="fastercache", tags=("saves depth",))
@dataclass(frozen=True)
class FasterCache(CacheTable):
    """Every second step each attention computes; between, its output is F + w (F - F') from the last two computed ones,
    where w grows from 0 to 1 over the run.

    Args:
        start: share of the run at whose start every step computes, 0 to 1.

    Raises:
        BadInput: start out of range. Refused: a network without attention whose output could be kept.

    Example:
        >>> load("shapes-flow").generate("a red circle", patches=[FasterCache()], guidance=CFGCache(3.0))

    Reference: Lv et al., FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality, 2410.19355.
    """

    start: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= 1.0:
            raise BadInput(f"FasterCache(start={self.start}): give a share of the run, 0 to 1")

    def neutral(self) -> FasterCache:
        """The setting that changes nothing."""
        return FasterCache(1.0)

    def sites(self, net: Sites) -> Sequence[Site]:
        return attentions(net, self)

    def steps(self, site: Site, n: int) -> frozenset[int]:
        return frozenset(i for i in range(n) if i % 2 == 0 or i < self.start * n)

    def store(self, call: Call, value: Any) -> None:
        call.memory["now"] = value
        before = call.split(call.memory.held("last"), lambda c: c.memory["last"], lambda c: c.memory["now"])
        call.memory["before"] = before
        super().store(call, value)

    def recall(self, call: Call) -> Any:
        assert call.at is not None
        w = call.at.progress
        return pytree.tree_map(
            lambda a, b: a + w * (a - b) if isinstance(a, Tensor) else a, call.memory["last"], call.memory["before"]
        )


@method(paper="fastercache", tags=("saves guidance",))
@dataclass(frozen=True)
class CFGCache(Guidance):
    """CFG whose unconditional prediction is computed at every N-th step, and else made of the conditional one:
    u = c + w_1 d_low + w_2 d_high with the low and high frequencies of the last difference d = u - c, where
    w_1 = 1 + alpha in the first half of the run and w_2 = 1 + alpha in the second.

    Args:
        w: guidance scale; 1 is the plain conditional prediction.
        every: N >= 1; 1 is CFG. The paper uses 5.
        start: share of the run at whose start both branches are computed, 0 to 1.
        alpha: how much the difference of a band is raised; the paper uses 0.2.
        cut: highest low frequency, in units of the highest of all, 0 to 1.

    Raises:
        BadInput: numbers out of range.

    Example:
        >>> load("shapes-flow").generate("a red circle", guidance=CFGCache(w=3.0))

    Reference: Lv et al., FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality, 2410.19355.
    """

    w: float = 7.5
    every: int = 5
    start: float = 0.3
    alpha: float = 0.2
    cut: float = 0.25

    needs = Needs.UNCONDITIONAL | Needs.GAUSSIAN
    evaluations = 2

    def __post_init__(self) -> None:
        if self.every < 1 or not (0.0 <= self.start <= 1.0 and 0.0 <= self.cut <= 1.0):
            raise BadInput(
                f"CFGCache(every={self.every}, start={self.start}, cut={self.cut}): every is 1 or more, start and cut "
                "are in [0, 1]"
            )

    def neutral(self) -> CFGCache:
        """The plain conditional prediction."""
        return replace(self, w=1.0)

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        if self.w == 1.0:
            return predict(x, t, cond, "cond")
        both = at.i % self.every == 0 or at.i < self.start * at.n or "difference" not in at.memory
        if both:
            pc, pu = predict.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))])
            at.memory["difference"] = pu.value - pc.value
            return pc.mix([self.w, 1.0 - self.w], [pc, pu])
        pc, d = predict(x, t, cond, "cond"), at.memory["difference"]
        low = low_pass(d, self.cut)
        early = at.progress < 0.5
        raised = d + self.alpha * (low if early else d - low)
        return pc.add((1.0 - self.w) * raised, of=pc)


def low_pass(x: Tensor, cut: float) -> Tensor:
    """The frequencies of pictures (B, C, H, W) up to `cut` of the highest, along both axes."""
    rows, columns = (torch.fft.fftfreq(n, device=x.device).abs() <= 0.5 * cut for n in x.shape[-2:])
    spectrum = torch.fft.fft2(x.float()) * (rows[:, None] & columns)
    return torch.fft.ifft2(spectrum).real.to(x.dtype)
