"""CycleDiffusion: the noises of a stochastic sampler as the code of a picture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.engine import Start, sample
from ..core.errors import Refused
from ..core.guidance import Guidance
from ..core.hook import Hook, StepFunction
from ..core.noise import Recorded
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.prediction import X0
from ..core.process import Gaussian, Process
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value
from ..samplers.churn import Churned
from .code import Code
from .inverter import Inverter, Plan


@method(paper="cyclediffusion")
@dataclass(frozen=True)
class CycleDiffusion(Inverter, Hook):
    """x_{t-1} ~ q(x_{t-1} | x_t, x0) from x_T ~ q(x_T | x0) on;  sigma_t eps_t = x_{t-1} - mu(x_t, t) is the code.

    q is the posterior that the sampler itself would draw from if it knew the picture, and mu the mean of its step with
    the network's prediction. Decoding adds sigma_t eps_t to mu at every step, so that the picture comes back exactly
    where prediction and guidance are those of the inversion, and what differs by a prompt or a network is the edit.
    Codes fit all networks with one process, sampler and shape of states: invert with one, `edit` with another. The
    latent spaces of their codecs have to be the same too, which nothing checks.

    Args:
        w: guidance scale of the inversion; 1 is the paper's, and that of decoding gives the picture back exactly.
        strength: share of the steps that is made, from x_t ~ q(x_t | x0); 0.5 to 0.85 of 100 steps in the paper.

    Raises:
        Refused: decoding with churn, whose noise comes before the network is asked.

    Example:
        >>> edit(model, image, "a red circle", "a blue circle", inversion=CycleDiffusion(), sampler=DDIM(eta=0.1))

    Reference: Wu and De la Torre, Unifying Diffusion Models' Latent Space, with Applications to CycleDiffusion and
    Guidance, 2210.05559.

    Differs from the paper: sigma_t eps_t is kept instead of eps_t, so that steps without noise, the last among them,
    are exact like all others.
    """

    w: float = 1.0
    strength: float = 1.0

    needs = Needs.GAUSSIAN
    fits = ("process", "times", "sampler", "shape")

    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        if isinstance(plan.sampler, Churned) and plan.sampler.churn:
            raise Refused(f"CycleDiffusion: {plan.sampler} adds noise before it asks; give DDIM(eta=0.1), or DDPM()")
        if not isinstance(plan.denoiser.process, Gaussian):
            raise Refused(f"{self}: needs a Gaussian process; use a model of continuous data")
        first = plan.first(self.strength, self)
        t = plan.grid.node(first).item()
        encoder = _Encoder(_Known(plan.denoiser.process.given(cond), x0))
        run = sample(
            plan.denoiser, Start.noised(x0, t), sampler=plan.sampler, grid=plan.grid, cond=cond, hooks=[encoder],
            guidance=plan.guide(self.w), noise=plan.noise, setting=plan.setting, save=lambda run: run.state.x,
        )  # fmt: skip
        return Code(run.saved[0], t, self, plan.place, extras={"noises": torch.stack(encoder.found, 1)})

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if "code" not in step.cond.alt:
            raise Refused("CycleDiffusion: needs the code of a picture; run it through `suffuse.editing.edit`")
        return step(x, without_noise(x, at)) + step.cond.alt["code"]["noises"][:, at.i - at.n]


@dataclass(frozen=True, eq=False)
class _Encoder(Hook):
    """Makes every step with the picture in the network's place, and notes how far the network's step is from it."""

    known: Guidance
    found: list[Tensor] = field(default_factory=list)

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        drawn = step.using(guidance=self.known)(x, at)
        self.found.append(drawn - step(x, without_noise(x, at)))  # made last, so that the sampler remembers it
        return drawn


@dataclass(frozen=True, eq=False)
class _Known(Guidance):
    """The prediction of who knows the picture."""

    process: Process
    x0: Tensor

    needs = Needs.GAUSSIAN

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        return self.process.predict(x, t, self.x0, X0)


def without_noise(x: Value, at: Step) -> Step:
    """The step whose own draw is 0: it returns the mean of its law."""
    still = Recorded({f"step/{at.i}{at.folds}": torch.zeros_like(x)}, at.samples, at.run.noise)
    return at.but(run=replace(at.run, noise=still))
