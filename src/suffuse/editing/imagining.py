"""Imagic: a picture fitted into the model, and then told something between itself and the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from ..core.engine import sample
from ..core.guidance import Guidance
from ..core.model import Model
from ..core.registry import method
from ..core.sampler import Sampler
from ..images import to_pil
from ..samplers.ancestral import DDIM
from .fitting import Fitted
from .task import plan_of


@dataclass(frozen=True, eq=False)
class Imagined:
    """What `imagic` returns.

    Attributes:
        images: eta -> a picture of each seed.
        latents: eta -> (seeds, C, h, w) their states.
    """

    images: Mapping[float, list[Image.Image]]
    latents: Mapping[float, Tensor]


@method(paper="imagic", tags=("editing",))
@torch.no_grad()
def imagic(
    model: Model,
    fitted: Fitted,
    etas: Sequence[float] = (0.0, 0.6, 0.7, 0.8),
    *,
    n: int = 1,
    steps: int = 50,
    guidance: Guidance | float | None = None,
    sampler: Sampler = DDIM(),
    negative_prompt: str | None = None,
    seed: int = 0,
) -> Imagined:
    """Pictures under  e = eta e_tgt + (1 - eta) e_opt  with the weights fitted to one picture: the picture, changed
    towards the prompt.

    All etas share the noise of each seed, so that they differ by what is told alone, and one fit serves them all.

    Args:
        model: the one that the picture was fitted to.
        fitted: what `fit_to_image` found for the picture and the target prompt.
        etas: 0 is the picture; 0.6 to 0.8 are usual.
        n: pictures of each.
        steps, guidance, sampler, negative_prompt, seed: of the runs; `guidance` is one, or its scale.

    Raises:
        Refused: another model than the one that was fitted.

    Example:
        >>> fitted = fit_to_image(model, "dog.png", "a sitting dog")
        >>> imagic(model, fitted, (0.6, 0.7, 0.8), n=4).images[0.7][0]

    Reference: Kawar et al., Imagic: Text-Based Real Image Editing with Diffusion Models, 2210.09276.

    Differs from the paper: one stage of super-resolution less, since latent models have none.
    """
    view, shape = fitted.on(model), fitted.made_for.shape
    plan, size = plan_of(view, shape, steps, guidance, sampler, None, seed)
    cond = model.condition([fitted.prompt], negative_prompt, n=n, size=size, grid=plan.grid)
    latents = {}
    for eta in etas:
        told = {k: v.expand(n, *v.shape[1:]) for k, v in fitted.mixed(eta).items()}
        latents[eta] = sample(
            plan.denoiser, (n, *shape), sampler=sampler, grid=plan.grid, guidance=plan.guidance, noise=plan.noise,
            setting=plan.setting, cond=replace(cond, entries={**cond.entries, **told}),
        ).x  # fmt: skip
    return Imagined({eta: to_pil(model.decode(x)) for eta, x in latents.items()}, latents)
