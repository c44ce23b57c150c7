"""Adaptive Guidance: classifier-free guidance with fewer evaluations.

Three ways to leave evaluations out: stop guiding a sample once both predictions agree (AdaptiveGuidance), replace
unconditional evaluations by a linear function of earlier ones (LinearAG), and a scale for every step found by gradient
search (ScheduledCFG, `search_policy`).

Reference: Castillo et al., Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models, 2312.12487.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.engine import grid_of, place_of, sample
from ..core.errors import BadInput, Refused
from ..core.guidance import Guidance
from ..core.plugin import Needs, Plugin, Setting
from ..core.predict import Predict
from ..core.registry import method
from ..core.sampler import Sampler
from ..core.step import Step
from ..core.value import Coef, Value, combine, dot, flat, norm
from .cfg import CFG


def cosine(x: Value, y: Value) -> Tensor:
    """(B,) cosine of the angle between each row of x and the same row of y."""
    return dot(x, y) / (norm(x) * norm(y)).clamp(min=1e-30)


@method(paper="adaptive-guidance", tags=("saves guidance",))
@dataclass(frozen=True)
class AdaptiveGuidance(Guidance):
    """CFG until gamma_t = cos(e(x_t, c), e(x_t, null)) exceeds a threshold, then the conditional prediction alone.

    Every sample of a batch switches by itself, and its unconditional evaluations are really saved. At pure noise both
    predictions are nearly the noise itself and gamma is near 1 too, so the switch is armed only after gamma has been
    below the threshold. Negative prompts take the place of the null condition, as in CFG.

    Args:
        w: guidance scale while guiding.
        space: where the angle is taken, "eps" as in the paper or "x0". At high noise both predictions of eps are mostly
            the state itself; on some models, the bundled ones among them, gamma in eps-space only falls during a run,
            while in x0-space it rises steadily.
        threshold: gamma-bar in (0, 1); the paper's 0.991 belongs to its models: `AdaptiveGuidance.fit` finds the one
            that spends a given share of CFG's evaluations.

    Example:
        >>> model.generate("a red circle", guidance=AdaptiveGuidance(w=5, threshold=0.99))

    Differs from the paper: the arming rule, and the choice of space.
    """

    w: float = 7.5
    threshold: float = 0.991
    space: str = "eps"

    needs = Needs.GAUSSIAN | Needs.UNCONDITIONAL
    evaluations = 2

    def __post_init__(self) -> None:
        if self.space not in ("eps", "x0"):
            raise BadInput(f"AdaptiveGuidance(space={self.space!r}): give eps or x0")

    def gamma(self, pc: Any, pu: Any) -> Tensor:
        """(B,) cosine of both predictions."""
        return cosine(getattr(pc, self.space), getattr(pu, self.space))

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        on = at.memory.get("on", torch.ones(len(at.samples), dtype=torch.bool))
        armed = at.memory.get("armed", torch.zeros_like(on))
        rows = on.nonzero()[:, 0]
        if len(rows) == 0:
            return predict(x, t, cond, "cond")
        if len(rows) == len(on):
            pc, pu = predict.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))])
        else:
            pc = predict(x, t, cond, "cond")
            pu = predict[rows](x[rows], t[rows], cond[rows].branch("null"), "null")
        gamma = self.gamma(pc[rows], pu).to(on.device)
        armed = armed.index_put((rows,), armed[rows] | (gamma < self.threshold))
        at.memory["armed"] = armed
        at.memory["on"] = on.index_put((rows,), ~(armed[rows] & (gamma > self.threshold)))
        return pc.put(rows, pc[rows].mix([self.w, 1.0 - self.w], [pc[rows], pu]))

    @classmethod
    def fit(
        cls, denoiser: Denoiser, x: Any, *, w: float, share: float = 0.75, space: str = "eps", **run: Any
    ) -> AdaptiveGuidance:
        """The threshold that spends about `share` of CFG's evaluations, from recorded runs.

        Args:
            denoiser, x, run: as for `sample`; a few dozen samples.
            w: guidance scale.
            share: wanted evaluations as a share of full CFG, between 0.5 (never guided) and 1.
            space: where the angle is taken.
        """
        if not 0.5 < share < 1.0:
            raise BadInput(
                f"share={share}: CFG spends two evaluations a step and none is saved below half; give 0.5 < share < 1"
            )
        recorder = Recording(cls(w, space=space))
        sample(denoiser, x, guidance=recorder, **run)
        gamma = torch.stack([cls(w, space=space).gamma(c, u) for c, u in recorder.pairs])  # (n, B)

        def spent(threshold: float) -> float:
            armed = (gamma < threshold).cumsum(0) > 0
            stop = armed & (gamma > threshold)
            guided = (stop.cumsum(0) - stop.long()) == 0  # the step that finds agreement was still evaluated
            return float((1 + guided.double()).mean() / 2)

        seen = gamma.flatten().unique()
        candidates = (seen[1:] + seen[:-1]) / 2  # between what was seen, so that rounding decides nothing
        candidates = candidates[torch.linspace(0, len(candidates) - 1, min(200, len(candidates))).long()].tolist()
        return cls(w, min(candidates, key=lambda threshold: abs(spent(threshold) - share)), space)


@method(paper="adaptive-guidance", tags=("saves guidance",))
@dataclass(frozen=True)
class LinearAG(Guidance):
    """CFG in which chosen steps estimate e(x_t, null) = sum_{j<=i} b^c_j e_j(c) + sum_{j<i} b^n_j e_j(null).

    The scalars b are fitted for each replaced step by least squares on recorded runs. Estimates enter the history in
    place of the evaluations that they replace. e is what the network itself puts out, as in CFG: eps for the paper's
    networks, v or the velocity of a flow for others. These differ from eps by a multiple of the state, which is itself
    a sum of the start and of earlier outputs; and at pure noise they still tell x0, which eps does not.

    Args:
        w: guidance scale.
        table: for each step of the grid, () where the network is evaluated, else the 2 i + 1 coefficients
            (conditional 0..i, then null 0..i-1). Made by `LinearAG.fit`.
        made_for: where it was fitted; another model, grid, sampler or scale is refused.

    Differs from the paper: which steps are replaced is an argument of `fit`; by default every second step of the first
    half, from the third step on. The paper replaces every second step of the first half and all of the second.
    """

    w: float
    table: tuple[tuple[float, ...], ...]
    made_for: Setting

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION | Needs.UNCONDITIONAL
    evaluations = 2

    def bind(self, setting: Setting) -> LinearAG:
        setting.require(self.made_for, ("model", "process", "sampler", "times"), f"LinearAG(w={self.w})")
        return self

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        past = at.memory.get("past", ())
        if self.table[at.i]:
            pc = predict(x, t, cond, "cond")
            if len(past) != at.i:
                raise Refused(
                    f"LinearAG: was asked in {len(past)} of the {at.i} steps before this one, and its table needs all; "
                    "put it outside of what leaves steps out"
                )
            history = [c for c, _ in past] + [pc.value] + [u for _, u in past]
            pu = replace(pc, value=_estimate(self.table[at.i], history))
        else:
            pc, pu = predict.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))])
        at.memory["past"] = (*past, (pc.value, pu.value))
        return pc.mix([self.w, 1.0 - self.w], [pc, pu])

    @classmethod
    def fit(
        cls,
        denoiser: Denoiser,
        x: Any,
        *,
        w: float,
        sampler: Sampler,
        steps: int,
        replaced: Sequence[int] | None = None,
        setting: Setting | None = None,
        ridge: float = 1e-6,
        **run: Any,
    ) -> LinearAG:
        """Least squares over recorded CFG runs (the paper records about 200).

        Args:
            denoiser, x, run: as for `sample`.
            w, sampler, steps: of the runs it is meant for.
            replaced: steps without unconditional evaluation; default 3, 5, ... of the first half.
            ridge: Tikhonov term relative to the mean square of the history.
        """
        grid = grid_of(denoiser.process, sampler, run.get("spacing"), steps, x)
        place = place_of(denoiser, grid, sampler, None, setting)
        recorder = Recording(cls(w, ((),) * grid.n, place))
        sample(denoiser, x, guidance=recorder, sampler=sampler, steps=steps, **run)
        replaced = range(2, steps // 2, 2) if replaced is None else replaced
        table: list[tuple[float, ...]] = []
        known: list[Tensor] = []  # the history as it will be, estimates included
        for i, (_, pu) in enumerate(recorder.pairs):
            history = [c.value for c, _ in recorder.pairs[: i + 1]] + known
            table.append(_regress(history, pu.value, ridge) if i in replaced else ())
            known.append(_estimate(table[i], history) if table[i] else pu.value)
        return cls(w, tuple(table), place)


def _regress(history: Sequence[Tensor], target: Tensor, ridge: float) -> tuple[float, ...]:
    """Scalars b that minimise |sum_j b_j history_j - target|^2 + ridge |b|^2, float64."""
    design = torch.stack([flat(e).double().flatten() for e in history])
    gram = design @ design.T
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    return tuple(torch.linalg.solve(gram, design @ flat(target).double().flatten()).tolist())


def _estimate(weights: Sequence[float], history: Sequence[Value]) -> Value:
    return combine(*zip(weights, history, strict=True))


@method(paper="adaptive-guidance", tags=("saves guidance",))
@dataclass(frozen=True)
class ScheduledCFG(Guidance):
    """CFG with a scale for every step: 1 is the conditional and 0 the unconditional prediction, at one evaluation.

    Args:
        scales: one for each step of the grid; `search_policy` finds them.
    """

    scales: tuple[float, ...]

    needs = Needs.UNCONDITIONAL
    evaluations = 2

    def neutral(self) -> ScheduledCFG:
        """The plain conditional prediction in every step."""
        return ScheduledCFG((1.0,) * len(self.scales))

    def bind(self, setting: Setting) -> ScheduledCFG:
        if setting.times and len(setting.times) != len(self.scales) + 1:
            raise BadInput(
                f"ScheduledCFG: {len(self.scales)} scales for {len(setting.times) - 1} steps; give one for each step"
            )
        return self

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        if self.scales[at.i] == 0.0:
            return predict(x, t, cond.branch("null"), "null")
        return CFG(self.scales[at.i])(predict, x, t, cond, at)


def search_policy(
    denoiser: Denoiser,
    x: Tensor,
    *,
    w: float,
    steps: int,
    price: float = 0.02,
    iterations: int = 30,
    rate: float = 0.3,
    **run: Any,
) -> ScheduledCFG:
    """Differentiable search of a guidance policy: min_a MSE(x(a), x(CFG)) / var + price * cost(a).

    Each step holds a softmax over {unconditional, conditional, CFG at w/2, w, 2w}. All five are linear in the same two
    evaluations, so their mixture is CFG at the expected scale, and the search runs through the unrolled sampler.

    Args:
        denoiser, x, run: as for `sample`; x are start states.
        w, steps: of the policy.
        price: weight of the expected share of steps with two evaluations.
        iterations, rate: of Adam on the logits.
    """
    options = torch.tensor([0.0, 1.0, w / 2, w, 2 * w])
    double = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    logits = torch.zeros(steps, 5, requires_grad=True)
    goal = sample(denoiser, x, guidance=CFG(w), steps=steps, **run).x
    adam = torch.optim.Adam([logits], rate)
    for _ in range(iterations):
        share = logits.softmax(1)
        got = sample(denoiser, x, guidance=_Soft(share @ options), steps=steps, gradient=True, **run).x
        loss = ((got - goal) ** 2).mean() / goal.var() + price * (share @ double).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return ScheduledCFG(tuple(options[logits.argmax(1)].tolist()))


@dataclass(frozen=True, eq=False)
class _Soft(Guidance):
    """CFG at differentiable scales, one for each step."""

    scales: Tensor

    needs = Needs.UNCONDITIONAL

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        pc, pu = predict.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))])
        return replace(pc, value=pu.value + self.scales[at.i] * (pc.value - pu.value))


@dataclass(frozen=True, eq=False)
class Recording(Guidance):
    """CFG at the scale of `inner`, whose needs it has, that keeps both predictions of every evaluation."""

    inner: CFG | AdaptiveGuidance | LinearAG
    pairs: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def bare(self) -> tuple[Plugin, ...]:
        return (self.inner,)

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        pc, pu = predict.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))])
        self.pairs.append((pc, pu))
        return pc.mix([self.inner.w, 1.0 - self.inner.w], [pc, pu])
