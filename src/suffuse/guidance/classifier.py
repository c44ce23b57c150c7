"""Classifier guidance: the gradient of a classifier of noisy states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..core.cond import Cond
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value
from ..networks.adm import ADMClassifier
from .gradient import GradientGuidance
from .scorers import ClassScore


@method(paper="adm")
@dataclass(frozen=True)
class ClassifierGuidance(Guidance):
    """eps_hat = eps - s sqrt(1 - abar_t) grad_{x_t} log p(y | x_t), or with `mean` mu + s Sigma grad log p(y | x_t).

    The class is that of the condition where the model has classes itself. The paper guides 25 steps of DDIM by eps or
    250 steps of DDPM by the mean.

    Args:
        classifier: of noisy states; `training.NoisyClassification` trains one, `loading.guided_diffusion` reads the
            released ones.
        s: scale of the gradient; the paper's 1 is for models that know the class, 10 for unconditional ones.
        mean: move the mean of the step (algorithm 1) instead of eps (algorithm 2); for samplers that draw noise.
        target: y, the same for all; None takes "label" of the condition's alternative "target", or its own.

    Example:
        >>> classifier = read_classifier("256x256_classifier.safetensors")
        >>> sample(denoiser, (4, 3, 256, 256), sampler=DDIM(), steps=25,
        ...        guidance=ClassifierGuidance(classifier, s=10.0, target=207))

    Reference: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, 2105.05233.

    Differs from the paper: Sigma is 0 in a step to t = 0, which draws no noise.
    """

    classifier: ADMClassifier
    s: float = 1.0
    mean: bool = False
    target: int | None = None

    evaluations = 1

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return self._gradient.needs

    @property
    def _gradient(self) -> GradientGuidance:
        return GradientGuidance(ClassScore(self.classifier, self.target), self.s, mean=self.mean)

    def neutral(self) -> ClassifierGuidance:
        """A scale of 0."""
        return replace(self, s=0.0)

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        return self._gradient(predict, x, t, cond, at)
