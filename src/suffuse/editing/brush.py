"""Diffusion Brush: a picture with the run that leads to it, ready to be painted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..core.cond import Cond
from ..core.engine import Start, State, sample
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.hook import Hook
from ..core.model import Model
from ..core.registry import method
from ..core.sampler import Sampler
from ..images import Picture, to_tensor
from ..samplers.ancestral import DDIM
from .branches import branches
from .direct_inversion import DirectInversion
from .inverter import Inverter, Plan
from .layers import Canvas
from .task import plan_of


@method(paper="diffusion-brush", tags=("editing",))
@torch.no_grad()
def diffusion_brush(
    model: Model,
    prompt: str,
    image: Picture | None = None,
    *,
    inversion: Inverter | None = None,
    steps: int = 50,
    guidance: Guidance | float | None = None,
    sampler: Sampler = DDIM(),
    negative_prompt: str | None = None,
    seed: int = 0,
    height: int | None = None,
    width: int | None = None,
) -> Canvas:
    """A canvas to paint on: a new picture, or one that is given, with the run that leads to it.

    At step n of a stroke  z' = (1 - m) z_n + m (sqrt(1 - alpha^2) z_n + alpha s eta);  then the steps from n on are
    made again, with  z <- m z' + (1 - m) z_t  where z_t is the run as it was.

    Args:
        model: a loaded model.
        prompt: what the picture shows.
        image: a picture; None makes one.
        inversion: finds a given picture in the model; default `DirectInversion()`.
        steps, guidance, sampler, negative_prompt, seed: of the run; `guidance` is one, or its scale.
        height, width: of a new picture, in pixels; default the model's.

    Raises:
        BadInput: an inversion without a picture; a picture of a size that the model cannot take.

    Example:
        >>> canvas = diffusion_brush(model, "a red circle", seed=3)
        >>> canvas.paint("mask.png", start=0.4, seed=1, prompt="a blue circle").image

    Reference: Gholami and Xiao, Diffusion Brush: A Latent Diffusion Model-based Editing Tool for AI-generated Images,
    2306.00219; layers as in Streamlining Image Editing with Layered Diffusion Brushes, 2405.00313.

    Differs from the paper: the blend is our reconstruction of what is described; pixels outside of all masks are put
    back after decoding; layers are made apart from each other.
    """
    if image is None:
        if inversion is not None:
            raise BadInput("inversion: finds a given picture; give image, or leave it out")
        factor, (tall, wide) = model.codec.space.factor, model.defaults.size
        shape = (model.codec.space.channels, (height or tall) // factor, (width or wide) // factor)
        plan, size = plan_of(model, shape, steps, guidance, sampler, None, seed)
        cond = model.condition(prompt, negative_prompt, size=size, grid=plan.grid)
        states = _states(plan, (1, *shape), cond)
        return Canvas(model, plan, prompt, negative_prompt, states, model.decode(states[-1].x).clamp(-1, 1))
    pixels = to_tensor(image)
    x0 = model.encode(pixels)
    plan, size = plan_of(model, x0.shape[1:], steps, guidance, sampler, None, seed)
    cond = model.condition(prompt, negative_prompt, size=size, grid=plan.grid)
    code = (inversion or DirectInversion()).encode(plan, x0, cond)
    both = _states(plan, Start.exactly(torch.cat([code.x, code.x]), code.t), code.beside(branches(cond, cond, 1)),
                   code.inverter.hooks)  # fmt: skip
    return Canvas(model, plan, prompt, negative_prompt, [state[[0]] for state in both], pixels)


def _states(plan: Plan, start: Any, cond: Cond, hooks: Sequence[Hook] = ()) -> list[State]:
    """States of the run as the plan says, before every step and after the last."""
    return sample(
        plan.denoiser, start, sampler=plan.sampler, grid=plan.grid, cond=cond, guidance=plan.guidance,
        noise=plan.noise, setting=plan.setting, hooks=hooks, save=lambda run: run.state,
    ).saved  # fmt: skip
