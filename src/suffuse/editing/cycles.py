"""Cyclic one-way diffusion: what is given flows out into the rest, and nothing flows back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.hook import Hook, StepFunction
from ..core.plugin import Needs, Prompt
from ..core.predict import Predict
from ..core.process import Gaussian
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value, combine
from ..samplers.ancestral import DDIM
from .keep_outside import composite

SUPPRESS, DIVERSE = "suppress", "diverse"


@method(paper="cow", tags=("inpainting",))
@dataclass(frozen=True)
class CyclicOneWay(Hook):
    """K times:  x_t2 = sqrt(abar_2 / abar_1) x_t1 + sqrt(1 - abar_2 / abar_1) eps, then down to t1 again; all the while
    x_t <- m x_t + (1 - m) z*_t, the given part at the same level of its own inversion. From t1 on the state is free.

    `cond.alt[path]` holds "states" (B, k + 1, ...), z* at the last k + 1 times of the grid, and "mask" (B, 1, h, w), 1
    where the state is free. The cycles are made before the step that begins at t1, where the run may begin too.

    Args:
        cycles: K; 0 leaves them out.
        low, high: t1 and t2, as shares of the steps that are left.
        last: where the given part is put in for the last time; 0 is never again.
        eta: noise of the steps down, 0 to 1; those from t1 on are the run's own.
        path: name of that alternative.

    Raises:
        BadInput: numbers out of range, no such alternative, or a path that does not reach up to t2.

    Reference: Wang et al., Diffusion in Diffusion: Cyclic One-Way Diffusion for Text-Vision-Conditioned Generation,
    2306.08247.
    """

    cycles: int = 10
    low: float = 0.5
    high: float = 0.7
    last: float = 0.4
    eta: float = 1.0
    path: str = "path"

    needs = Needs.GAUSSIAN

    def __post_init__(self) -> None:
        if not 0.0 <= self.last <= self.low < self.high <= 1.0 or not (
            isinstance(self.cycles, int) and self.cycles >= 0
        ):
            raise BadInput(
                f"CyclicOneWay(cycles={self.cycles}, low={self.low}, high={self.high}, last={self.last}): give "
                "0 <= last <= low < high <= 1, and 0 or more cycles"
            )

    def node(self, n: int, left: float) -> int:
        """The node of a grid of n steps at which this share of the steps is left."""
        return n - round(n * left)

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        low, last = (self.node(at.n, left) for left in (self.low, self.last))
        if at.i == low:
            x = self._cycled(step, self._put(x, step.cond, low, at), at)
        out = step(x, at)
        return self._put(out, step.cond, last, at) if at.i + 1 == last < at.n else out

    def _cycled(self, step: StepFunction, x: Value, at: Step) -> Value:
        top, down = self.node(at.n, self.high), step.using(sampler=DDIM(self.eta))
        for k in range(self.cycles):
            again = at.fold(f"cycle/{k}").but(first=False, last=False)
            x = renoised(x, at.process, at.t, at.grid.node(top), again.noise(x, "up"))
            x = self._put(x, step.cond, top, at)
            for i in range(top, at.i):
                x = down(x, again.but(i=i, t=at.grid.node(i), s=at.grid.node(i + 1)))
                x = self._put(x, step.cond, i + 1, at)
        return x

    def _put(self, x: Tensor, cond: Cond, node: int, at: Step) -> Tensor:
        """`x` with the given part as it is at this node of the grid."""
        known = cond.alt.get(self.path, Cond())
        if not {"states", "mask"} <= known.keys() or known["states"].shape[1] <= at.n - self.node(at.n, self.high):
            raise BadInput(
                f"{self}: give cond.with_alt({self.path}=Cond(...)) with mask, and states from {self.high} on"
            )
        return composite(known["states"][:, node - at.n - 1], x, known["mask"])


def renoised(x: Value, process: Gaussian, t: Coef, s: Coef, noise: Value) -> Value:
    """A draw of q(x_s | x_t) for s > t: the state with more noise, made of standard normal `noise`."""
    return combine((process.alpha(s) / process.alpha(t), x), (process.reverse_std(t, s), noise))


@method(paper="cow")
@dataclass(frozen=True)
class Diversify(Guidance):
    """e + w m (e(x, diverse) - e(x, suppress)): where the state is free, away from one text and towards another.

    The paper adds e(x, suppress) - e(x, diverse) to the unconditional prediction of CFG; that is this, with w one less
    than the scale of the CFG inside of it.

    Args:
        suppress: what the rest should not show again, such as "human face".
        diverse: what it should be instead.
        w: scale.
        path: alternative of the condition whose "mask" says where the state is free.

    Reference: Wang et al., Diffusion in Diffusion: Cyclic One-Way Diffusion for Text-Vision-Conditioned Generation,
    2306.08247.
    """

    suppress: Prompt
    diverse: Prompt = "a high quality and colorful image"
    w: float = 6.5
    path: str = "path"

    needs = Needs.GAUSSIAN

    def prompts(self) -> dict[str, Prompt]:
        return {SUPPRESS: self.suppress, DIVERSE: self.diverse}

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        missing = [name for name in (SUPPRESS, DIVERSE, self.path) if name not in cond.alt]
        if missing:
            raise BadInput(f"{self}: the condition has no alternative {missing[0]!r}; give it by cond.with_alt(...)")
        p = predict(x, t, cond)
        down, up = predict.plain.many([(name, x, t, cond.branch(name)) for name in (SUPPRESS, DIVERSE)])
        return p.add(self.w * cond.alt[self.path]["mask"] * (up.value - down.value), of=up)
