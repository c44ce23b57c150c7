"""SEGA and the Stable Artist: concepts are added to a picture and removed from it while its composition stays.

Both sum directions of concepts, each within its own window and masked to the entries that matter most; they differ in
how an entry's strength is found.

References: Brack et al., SEGA: Instructing Diffusion using Semantic Dimensions, 2301.12247; Brack et al., The Stable
Artist: Steering Semantics in Diffusion Latent Space, 2212.06013.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.plugin import Needs, Prompt
from ..core.predict import Predict
from ..core.prediction import Affine
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Tree, Value, combine
from .directions import Concept, conditional, evaluated, largest, with_momentum


@dataclass(frozen=True)
class Steering(Guidance):
    """What both methods share; `strength` is their own.

    Args:
        concepts: what is added and removed.
        momentum: s_m, share of the accumulated directions that is added.
        beta: how much of them is kept from step to step.
    """

    concepts: tuple[Concept, ...]
    momentum: float = 0.1
    beta: float = 0.4

    needs = Needs.GAUSSIAN | Needs.UNCONDITIONAL
    asks_prompt: ClassVar[bool] = False
    """True where the strength depends on what the network predicts for the prompt."""

    def __post_init__(self) -> None:
        if not all(isinstance(c, Concept) for c in self.concepts):
            name = type(self).__name__
            raise BadInput(f"{name}(concepts={self.concepts!r:.60}): give a tuple such as (Concept('striped'),)")

    @abstractmethod
    def strength(self, concept: Concept, d: Value, prompt: Affine, found: Affine) -> tuple[Value, Value]:
        """Where a concept acts, bool of the shape of the state, and how strongly: the same shape, or one number.

        Args:
            concept: which.
            d: its direction.
            prompt, found: predictions for the prompt and for the concept.
        """

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Without momentum a concept is asked for within its window only, with it from the start of the run."""
        windows = [(0.0 if self.momentum else c.start, c.stop) for c in self.concepts]
        return 1 + max((1 + sum(a <= at < b for a, b in windows) for at, _ in windows), default=0)

    def prompts(self) -> Mapping[str, Prompt]:
        return {c.name: c.prompt for c in self.concepts}

    def neutral(self) -> Self:
        """No concepts."""
        return replace(self, concepts=())

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        p = predict(x, t, cond)
        begun = [c for c in self.concepts if c.start <= at.progress]
        asked = [c for c in (self.concepts if self.momentum else begun) if at.progress < c.stop]
        if not asked:
            return p
        prompt = conditional(predict, p, x, t, cond) if self.asks_prompt else p
        names = dict.fromkeys(c.name for c in asked)  # a concept may act in several windows
        null, *rest = evaluated(predict, x, t, cond, tuple(names), type(self).__name__)
        found = dict(zip(names, rest, strict=True))

        terms, masks = [], []
        for c in asked:
            d = found[c.name].value - null.value
            mask, strength = self.strength(c, d, prompt, found[c.name])
            masks.append(mask)
            terms.append((c.sign * c.weight, mask * d * strength))
        at.memory["masks"] = tuple(masks)
        total = combine(*terms)
        if self.momentum:
            total = with_momentum(at.memory, "momentum", total, self.momentum, self.beta)
        if len(begun) == len(self.concepts):
            return p.add(total, of=null)
        acting = [term for c, term in zip(asked, terms, strict=True) if c.start <= at.progress]
        return p.add(combine(*acting), of=null) if acting else p


@method(paper="sega", tags=("editing",))
@dataclass(frozen=True)
class SEGA(Steering):
    """Adds sum_i g_i psi_i + s_m nu to a prediction, where psi_i keeps the largest entries of a concept's direction.

    psi_i = s_i (+-) (e(c_i) - e(null)) where its magnitude is at least the lambda-quantile of its channel, else 0
    gamma_t = sum_i g_i psi_i + s_m nu_t,    nu_{t+1} = beta nu_t + (1 - beta) gamma_t

    Put it around the guidance of the prompt: SEGA(...) | CFG(7.5) is e(null) + s_g (e(p) - e(null)) + gamma_t, and
    costs one evaluation for each concept more. Before a concept's `start` nothing changes, to the bit; nu accumulates
    from the first step on and is added once all concepts have begun. `remembered(state, SEGA, "masks")` are the masks
    of the last step: one for each concept evaluated in it, of the shape of the state.

    Args:
        concepts: what is added and removed, each with its own scale, threshold, weight, sign and window. The paper
            begins at step 10 of 50, `start=0.2`.
        momentum: s_m; 0 is none, and then concepts are evaluated within their windows only.
        beta: of the momentum.
        threshold: lambda of concepts that name none, a quantile in [0, 1).

    Raises:
        BadInput: a threshold that is no quantile.

    Example:
        >>> model.generate("a red circle", guidance=SEGA((Concept("striped"),)) | CFG(5))

    Reference: Brack et al., SEGA: Instructing Diffusion using Semantic Dimensions, 2301.12247.

    Differs from the paper's program: while some concepts have not begun, the others keep their weights, where it
    divides them by their sum; after the last concept's `stop` nothing is added, where it lets the momentum fade.
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        for bound in (self.threshold, *(c.threshold for c in self.concepts if c.threshold is not None)):
            if not 0.0 <= bound < 1.0:
                raise BadInput(f"SEGA(threshold={bound}): it is a quantile; give 0 <= threshold < 1")

    def strength(self, concept: Concept, d: Value, prompt: Affine, found: Affine) -> tuple[Value, Value]:
        return largest(d, self.threshold if concept.threshold is None else concept.threshold), concept.scale


@method(paper="stable-artist", tags=("editing",))
@dataclass(frozen=True)
class StableArtist(Steering):
    """Adds w sum_i g_i (+-) mu_i (e(c_i) - e(null)) + s_m nu, where mu_i looks at how far prompt and concept differ.

    mu_i = min(1, s_i / |e(p) - e(c_i)|)   where e(p) - e(c_i) > -lambda to add, < lambda to remove; else 0

    The precursor of SEGA: warm-up, weights and momentum are the same, only the choice of entries differs.
    `suffuse.guidance.edit_history` puts it to use, edit by edit.

    Args:
        concepts: what is added and removed; `scale` is s_i and `threshold` lambda, both in units of the noise. A scale
            above all differences makes mu_i 1, as in the authors' examples.
        momentum, beta: of the accumulated directions; a momentum of 0 is none.
        w: guidance scale of the edits, in the paper that of the prompt.
        threshold: lambda of concepts that name none, at least 0; the authors' examples have 0.1 to 0.2.

    Raises:
        BadInput: a negative threshold.

    Example:
        >>> model.generate("a red circle", guidance=StableArtist((Concept("striped"),), w=5) | CFG(5))

    Reference: Brack et al., The Stable Artist: Steering Semantics in Diffusion Latent Space, 2212.06013.

    Differs from the paper: the rule above is that of the authors' program of the time. The formula of safe latent
    diffusion, max(1, |s (e(p) - e(c))|), would act at full strength at s = 0 and grow without bound. Weights are not
    divided by their sum, so that an edit stays what it is when another one joins.
    """

    w: float = 7.5
    threshold: float = 0.1

    asks_prompt = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for bound in (self.threshold, *(c.threshold for c in self.concepts if c.threshold is not None)):
            if bound < 0.0:
                raise BadInput(f"StableArtist(threshold={bound}): it bounds a difference; give 0 or more")

    def strength(self, concept: Concept, d: Value, prompt: Affine, found: Affine) -> tuple[Value, Value]:
        bound = self.threshold if concept.threshold is None else concept.threshold
        apart = prompt.eps - found.eps
        inside = _each(lambda v: v * concept.sign > -bound, apart)
        return inside, self.w * _each(lambda v: (concept.scale / v.abs().clamp(min=1e-30)).clamp(max=1.0), apart)


def _each(function: Any, v: Value) -> Value:
    return v.map(function) if isinstance(v, Tree) else function(v)
