"""Gradient guidance: any differentiable log p(y | x_t) steers a run.

A scorer says how likely what is wanted is; the gradient of what it says is added to the score of the prediction. It is
taken where the run stands (a scorer that knows noisy states), or through the predicted clean state (one that does not).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput, Refused
from ..core.guidance import Guidance
from ..core.law import Normal
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.prediction import Affine
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, where


class LogLikelihood(Protocol):
    """log p(y | x) for each sample, by itself: a frozen dataclass, an nn.Module or a function."""

    def __call__(self, x: Tensor, t: Coef, cond: Cond) -> Tensor:
        """(B,) log-probabilities, up to a constant, differentiable in x.

        Args:
            x: states (B, ...) at time t, or predicted clean ones where the guidance looks ahead.
            t: time of the run, 0 to 1.
            cond: of the run; what is wanted stands in it or in its alternative "target", see `wanted`.
        """


def wanted(cond: Cond) -> Cond:
    """What scorers read: the alternative "target" of a condition, or the condition itself."""
    return cond.branch("target") if "target" in cond.alt else cond


def gradient(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of each sample's score at its state, whatever the surrounding gradient mode.

    Args:
        score: (B, ...) states -> (B,).
        x: states (B, ...).

    Raises:
        BadInput: the scores are not one number a sample, or do not depend on the state.
    """
    unrolled = torch.is_grad_enabled()  # a run that is itself differentiated keeps the graph of its gradients
    with torch.enable_grad():
        at = x if unrolled and x.requires_grad else x.detach().requires_grad_(True)
        log_p = score(at)
        if log_p.shape != (len(x),):
            raise BadInput(f"scorer: returned shape {tuple(log_p.shape)} for {len(x)} states; give one number a sample")
        if not log_p.requires_grad:
            raise BadInput("scorer: what it returns has no gradient in the state; leave out no_grad and detach")
        return torch.autograd.grad(log_p.sum(), at, create_graph=unrolled)[0]


@method(paper="adm")
@dataclass(frozen=True)
class GradientGuidance(Guidance):
    """eps_hat = eps - s sigma_t grad_{x_t} log p(y | x_t), for any differentiable log p.

    With `mean` the same gradient moves the mean of the step's own law, mu + s Sigma grad log p(y | x_t), as for DDPM in
    the paper; Sigma is the variance that the sampler draws with, a learned one too. At alpha = 0 a state says nothing
    of the data, and is left alone.

    Args:
        scorer: log p(y | x), see `LogLikelihood`.
        s: scale of the gradient; 0 is no guidance.
        look_ahead: score the predicted clean state x0(x_t), and take the gradient through the network.
        mean: move the mean of the step instead of eps; for samplers of one evaluation that draw noise.

    Raises:
        Refused: `mean` with a sampler that draws no noise, or asks several times a step.

    Example:
        >>> bright = GradientGuidance(lambda x, t, cond: -((x.mean((1, 2, 3)) - 0.5) ** 2) * 1e3, look_ahead=True)
        >>> model.generate("a red circle", guidance=bright | CFG(5))

    Reference: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, 2105.05233, algorithms 1 and 2.

    Differs from the paper: any scorer, and looking ahead.
    """

    scorer: LogLikelihood
    s: float = 1.0
    look_ahead: bool = False
    mean: bool = False

    evaluations = 1

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs.GAUSSIAN | Needs.GRADIENT | (Needs.ONE_EVALUATION if self.mean else Needs.NOTHING)

    def neutral(self) -> GradientGuidance:
        """A scale of 0."""
        return replace(self, s=0.0)

    def __call__(self, predict: Predict, x: Tensor, t: Coef, cond: Cond, at: Step) -> Any:
        if self.s == 0.0:
            return predict(x, t, cond)
        if self.look_ahead:
            p, g = self._through(predict, x, t, cond)
        else:
            p, g = predict(x, t, cond), gradient(lambda z: self.scorer(z, t, cond), x)
        return mean_moved(p, self.s * g, at) if self.mean else score_moved(p, self.s * g)

    def _through(self, predict: Predict, x: Tensor, t: Coef, cond: Cond) -> tuple[Affine, Tensor]:
        """The prediction, and the gradient through it, from one evaluation."""
        made: list[Affine] = []

        def score(z: Tensor) -> Tensor:
            made.append(predict(z, t, cond))
            return self.scorer(made[0].x0, t, cond)

        g, p = gradient(score, x), made[0]
        return (p if torch.is_grad_enabled() else replace(p, x=x, value=p.value.detach())), g


def score_moved(p: Affine, g: Tensor) -> Affine:
    """The prediction whose score is greater by g: eps - sigma g, in the network's own output."""
    own = p.a * p.row[1] - p.s * p.row[0]
    return p.add(where(p.a > 0.0, -1.0 * p.s * own / p.a, 0.0) * g, of=p)


def mean_moved(p: Affine, g: Tensor, at: Step) -> Affine:
    """The prediction from which the sampler's step makes a law with the same variance Sigma and mean + Sigma g.

    Raises:
        Refused: the sampler draws no noise, or asks several times a step.
    """
    law = _law(p, at)
    nothing, one = torch.zeros_like(p.x), torch.ones_like(p.x)
    # The mean is affine in eps: its slope is what one unit of noise at the origin adds.
    origin = replace(p.with_(eps=nothing), x=nothing)
    slope = _law(origin.with_(eps=one), at).mean - _law(origin, at).mean
    counts = torch.isfinite(slope) & (slope != 0)  # not at alpha = 0, nor where the step stays at its time
    eps = torch.where(counts, law.std * law.std * g / slope, 0.0)
    own = p.a * p.row[1] - p.s * p.row[0]
    return p.add(where(p.a > 0.0, own / p.a, 0.0) * eps, of=p)


def _law(p: Affine, at: Step) -> Normal:
    law = at.mover(p, at) if at.mover is not None else None
    if not isinstance(law, Normal):
        raise Refused(
            "GradientGuidance(mean=True): this sampler draws no noise, or asks several times a step; "
            "use DDPM(), or mean=False"
        )
    return law
