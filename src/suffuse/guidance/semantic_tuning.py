"""Semantic Guidance Tuning: steer towards a phrase of the prompt where the guidance diverges from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ..conditioning.phrases import noun_phrases
from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.engine import State, sample
from ..core.errors import BadInput, Refused
from ..core.guidance import Guidance
from ..core.plugin import Needs, Prompt
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value
from .adaptive import cosine
from .directions import conditional, evaluated, largest, perpendicular, remembered, with_momentum

RECENT = 5
"""Steps over which similarities are averaged."""


@method(paper="semantic-guidance-tuning")
@dataclass(frozen=True)
class SemanticGuidanceTuning(Guidance):
    """Adds w sum_i g_i over the concepts of a prompt from which its guidance s_p = e(p) - e(null) diverges.

    s_i  = e(c_i) - e(null), entries below the quantile of |s_i| in their channel set to 0
    s_a  = s_p, masked alike, minus its projections on s_1, s_2, ... in turn: the abstract concept
    diverged, where the mean over the last 5 steps of |cos(s_p, s_i)| is below the threshold:
    g_i  = s_i + s_m m_i,    m_i <- beta m_i + (1 - beta) g_i;       g_a = -(s_p - s_a)

    The concepts c_i are the noun phrases of each prompt, in their order, and what other plug-ins of the run ask for as
    phrases; a batch costs as many evaluations as its prompt with the most. Every sample is steered by itself. Outside
    of the window nothing changes, to the bit, and no phrase is evaluated.
    `SemanticGuidanceTuning.curves(result.state)` are the similarities of a run.

    Args:
        concepts: c_1, c_2, ... instead of the noun phrases that `suffuse.conditioning.phrases` finds.
        w: concept guidance scale. The paper has 8.5 beside 7.5 for the prompt.
        threshold: similarity of a phrase below which it counts as neglected. The paper's 0.5 belongs to its model;
            `fit` finds those of another one.
        abstract: the same of the abstract concept.
        quantile: share of entries of each channel that are set to 0.
        momentum: s_m.
        beta: how much of the momentum is kept.
        start, stop: it acts for start <= progress < stop; the paper's step 5 of 50 is 0.1.

    Raises:
        BadInput: a window that is empty. Refused: a condition without phrases.

    Example:
        >>> model.generate("a red circle and a blue square", guidance=SemanticGuidanceTuning() | CFG(7.5))

    Reference: Kang et al., Semantic Guidance Tuning for Text-To-Image Diffusion Models, 2312.15964.

    Differs from the authors' program: as phrases are not evaluated outside of the window, similarities and momenta
    begin with it, and the mean includes the step at hand, where theirs ends at the one before.
    Terms and constants are those of its last release; one before it adds the parts of s_i perpendicular to s_p.
    """

    concepts: tuple[Prompt, ...] = ()
    w: float = 8.5
    threshold: float = 0.5
    abstract: float = 0.5
    quantile: float = 0.9
    momentum: float = 0.5
    beta: float = 0.5
    start: float = 0.1
    stop: float = 1.0

    needs = Needs.GAUSSIAN | Needs.UNCONDITIONAL

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.stop:
            raise BadInput(f"SemanticGuidanceTuning(start={self.start}, stop={self.stop}): give 0 <= start < stop")
        if not 0.0 <= self.quantile < 1.0:
            raise BadInput(f"SemanticGuidanceTuning(quantile={self.quantile}): give 0 <= quantile < 1")

    def phrases(self, prompt: Prompt | None) -> Sequence[Prompt]:
        return self.concepts or (noun_phrases(prompt) if isinstance(prompt, str) else ())

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        p = predict(x, t, cond)
        if not self.start <= at.progress < self.stop:
            return p
        if "phrases" not in cond.alt:
            raise Refused(
                "SemanticGuidanceTuning: the condition has no phrases; use Model.generate, or "
                "model.condition(prompts, plugins=[SemanticGuidanceTuning()])"
            )
        given = cond.alt["phrases"]["given"].cpu()
        names = [f"phrase:{k}" for k in range(given.shape[1])]
        prompt = conditional(predict, p, x, t, cond)
        null, *found = evaluated(predict, x, t, cond, names, "SemanticGuidanceTuning")

        s_p = prompt.value - null.value
        s = [Coef(given[:, k].double()) * (e.value - null.value) for k, e in enumerate(found)]
        s = [largest(v, self.quantile) * v for v in s]
        s_a = perpendicular(largest(s_p, self.quantile) * s_p, s)
        similarity = torch.stack([cosine(s_p, v).abs() for v in (*s, s_a)], 1).cpu()
        similarity[:, :-1][~given] = torch.nan
        curves = torch.cat([at.memory.get("similarity", similarity[:, None][:, :0]), similarity[:, None]], 1)
        at.memory["similarity"] = curves

        bounds = torch.tensor([self.threshold] * len(s) + [self.abstract])
        diverged = (curves[:, -RECENT:].mean(1) < bounds).double()
        g = [with_momentum(at.memory, f"momentum {k}", v, self.momentum, self.beta) for k, v in enumerate(s)]
        terms = [Coef(self.w * diverged[:, k]) * v for k, v in enumerate([*g, s_a - s_p])]
        return p.add(sum(terms[1:], terms[0]), of=null)

    @staticmethod
    def curves(state: State) -> Tensor:
        """(B, steps of the window, n + 1) |cos| to each phrase and, last, to the abstract concept; NaN where a sample
        has no such phrase."""
        return remembered(state, SemanticGuidanceTuning, "similarity")

    def fit(self, denoiser: Denoiser, x: Any, *, guidance: Guidance, share: float = 0.5, **run: Any) -> Self:
        """The same with thresholds below which a share of the similarities of unsteered runs lies.

        Args:
            denoiser, x, run: as for `sample`; a few dozen samples.
            guidance: of the prompt, that it is to be put around.
            share: of samples and steps of the window at which a concept is to count as neglected, 0 to 1.
        """
        if not 0.0 < share < 1.0:
            raise BadInput(f"share={share}: give a share between 0 and 1")
        watching = replace(self, w=0.0)
        seen = self.curves(sample(denoiser, x, guidance=watching | guidance, **run).state)
        recent = torch.stack([seen[:, max(0, i - RECENT + 1) : i + 1].mean(1) for i in range(seen.shape[1])], 1)
        bounds = [float(part[~part.isnan()].quantile(share)) for part in (recent[..., :-1], recent[..., -1])]
        return replace(self, threshold=bounds[0], abstract=bounds[1])
