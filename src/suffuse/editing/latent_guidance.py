"""Guidance in the latent space of a sampler: Langevin steps on the noises that it draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.engine import Start, sample
from ..core.errors import BadInput
from ..core.hook import Hook, StepFunction
from ..core.noise import Recorded
from ..core.registry import method
from ..core.step import Step
from ..core.tap import checkpoint
from ..core.value import Value
from .inverter import Plan

Energy = Callable[[Tensor], Tensor]
"""Clean states (B, ...) -> (B,), low where they are as wanted; differentiable."""


@dataclass(frozen=True, eq=False)
class Guided:
    """What `guide_latent` returns.

    Attributes:
        x: (B, ...) clean states of the last latent.
        z: (B, n + 1, ...) that latent: x_T in units of its deviation, and the noise of every step.
        energies: (iterations + 1, B) their sum before every step and after the last.
    """

    x: Tensor
    z: Tensor
    energies: Tensor


@dataclass(frozen=True)
class _Checkpointed(Hook):
    """Keeps only the states between the steps for the gradient, and makes each step again in the backward pass."""

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        return checkpoint(step, x, at)


def decode_latent(plan: Plan, z: Tensor, cond: Cond, gradient: bool = False) -> Tensor:
    """(B, ...) G(z): the run that starts from z_0 and draws z_1, z_2, ... as its noises."""
    start = plan.denoiser.process.given(cond).prior(z[:, 0]).at(z[:, 0])
    noise = Recorded({f"step/{i}": z[:, i + 1] for i in range(plan.grid.n)}, range(len(z)), plan.noise)
    run = sample(
        plan.denoiser, Start.exactly(start, plan.grid.node(0).item()), sampler=plan.sampler,
        grid=plan.grid, cond=cond, guidance=plan.guidance, noise=noise, setting=plan.setting, gradient=gradient,
        hooks=[_Checkpointed()] if gradient else [],
    )  # fmt: skip
    return run.x


@method(paper="cyclediffusion", tags=("guidance",))
def guide_latent(
    plan: Plan,
    shape: Sequence[int],
    energies: Sequence[Energy],
    cond: Cond,
    *,
    strength: float = 1.0,
    rate: float = 0.05,
    iterations: int = 50,
    z: Tensor | None = None,
) -> Guided:
    """Draw from p(z | y) ~ N(z; 0, I) exp(-lambda sum_k E_k(G(z))) by Langevin steps through the whole sampler.

    z <- z - rate / 2 (z + lambda grad sum_k E_k(G(z))) + sqrt(rate) xi

    G is the run of `plan`; its gradient keeps one state a step and makes the steps again. Several energies are summed.

    Args:
        plan: denoiser, grid, sampler, guidance and noise of the run.
        shape: (B, ...) of the states.
        energies: of clean states, (B,) each.
        cond: of the run, B rows.
        strength: lambda; 0 draws plain samples.
        rate: of a step, in (0, 1).
        iterations: Langevin steps.
        z: (B, n + 1, ...) latent to begin with; default drawn from N(0, I).

    Raises:
        BadInput: no energy, or a rate out of range.

    Example:
        >>> red = lambda x: -model.codec.decode(x)[:, 0].mean((1, 2))
        >>> found = guide_latent(Plan(model.denoiser, grid, DDIM(eta=1.0)), (1, 4, 16, 16), [red], cond, strength=100.0)

    Reference: Wu and De la Torre, Unifying Diffusion Models' Latent Space, with Applications to CycleDiffusion and
    Guidance, 2210.05559, section 3.3.
    """
    if not energies or not 0.0 < rate < 1.0:
        raise BadInput(f"guide_latent: {len(energies)} energies, rate={rate}; give one or more, and a rate in (0, 1)")
    rows = range(shape[0])
    like = torch.zeros(shape[0], plan.grid.n + 1, *shape[1:])
    z = plan.noise.normal(like, rows, "latent") if z is None else z
    trace = []
    for k in range(iterations):
        at = z.detach().requires_grad_(True)
        with torch.enable_grad():
            x = decode_latent(plan, at, cond, gradient=True)
            energy = torch.stack([e(x) for e in energies]).sum(0)
        slope = z + strength * torch.autograd.grad(energy.sum(), at)[0]
        z = z - 0.5 * rate * slope + rate**0.5 * plan.noise.normal(like, rows, f"langevin/{k}")
        trace.append(energy.detach())
    x = decode_latent(plan, z, cond)
    with torch.no_grad():
        trace.append(torch.stack([e(x) for e in energies]).sum(0))
    return Guided(x, z, torch.stack(trace))
