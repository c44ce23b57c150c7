"""Pictures of a prompt around given crops: text-vision-conditioned generation by cyclic one-way diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.arguments import spread
from ..core.cond import Cond
from ..core.engine import Start, sample
from ..core.errors import BadInput
from ..core.generation import Images
from ..core.model import Model
from ..core.recipe import hash_of, of_picture, recipe
from ..core.registry import method
from ..images import Picture, mask_tensor, to_pil, to_tensor
from ..samplers.ancestral import DDIM
from .cycles import CyclicOneWay, Diversify
from .ddim_inversion import pivots
from .task import plan_of

GREY = 128 / 127.5 - 1.0
"""What an empty canvas shows, in [-1, 1]."""


@dataclass(frozen=True, eq=False)
class Pasted:
    """A visual condition: what is to be seen, and where.

    Args:
        image: the crop.
        left, top: where its left upper corner lies on the canvas, in pixels.
        mask: white where the crop counts; None is all of it.
        size: height and width on the canvas; None is the crop's own.
    """

    image: Picture
    left: int = 0
    top: int = 0
    mask: Picture | None = None
    size: tuple[int, int] | None = None


def canvas(conditions: Sequence[Pasted], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Crops on grey: pixels (1, 3, H, W) in [-1, 1], and (1, 1, H, W), 1 where one lies. Later ones lie on top.

    Raises:
        BadInput: no crop, or one that does not lie on the canvas.
    """
    if not conditions:
        raise BadInput("conditions: none; give at least one Pasted(image, left, top)")
    pixels, given = torch.full((1, 3, height, width), GREY), torch.zeros(1, 1, height, width)
    for each in conditions:
        crop = to_tensor(each.image, each.size)
        tall, wide = crop.shape[-2:]
        mask = torch.ones(1, 1, tall, wide) if each.mask is None else mask_tensor(each.mask, (tall, wide))
        if not (0 <= each.left <= width - wide and 0 <= each.top <= height - tall):
            raise BadInput(
                f"Pasted(left={each.left}, top={each.top}): a crop of {wide} x {tall} does not lie on a canvas of "
                f"{width} x {height}; move it, or give its size"
            )
        place = (..., slice(each.top, each.top + tall), slice(each.left, each.left + wide))
        hard = (mask >= 0.5).float()
        pixels[place] = torch.lerp(pixels[place], crop, hard)
        given[place] = torch.maximum(given[place], hard)
    return pixels, given


@method(paper="cow", tags=("inpainting",))
@torch.no_grad()
def cyclic_one_way(
    model: Model,
    prompt: str | Sequence[str],
    conditions: Sequence[Pasted] | Sequence[Sequence[Pasted]],
    *,
    cycle: CyclicOneWay = CyclicOneWay(),
    suppress: str | None = None,
    diverse: str = "a high quality and colorful image",
    steps: int = 50,
    guidance: float = 7.5,
    eta: float = 0.1,
    negative_prompt: str | None = None,
    seed: int = 0,
    height: int | None = None,
    width: int | None = None,
) -> Images:
    """Pictures of a prompt that contain given crops with all their detail, without training.

    The crops, on grey, are inverted by DDIM, every level kept. From the canvas at t1 on, cycles of noise up to t2 and
    steps down to t1, with the crops put in at each level, let them flow out into the rest; the last steps are free.

    Args:
        model: a loaded model.
        prompt: what the whole shows; several make a picture of each.
        conditions: the crops and their places; of all pictures, or a sequence for each.
        cycle: levels and number of cycles.
        suppress: what is not to appear a second time during the cycles; None leaves this guidance out.
        diverse: what it is led to instead.
        steps, guidance, negative_prompt, seed: of the run; `guidance` is the scale.
        eta: noise of the steps from t1 on, 0 to 1.
        height, width: of the canvas, in pixels; default the model's.

    Raises:
        BadInput: crops that do not lie on the canvas, or a size that the model cannot take.

    Example:
        >>> cyclic_one_way(model, "a red circle and a blue square", [Pasted("circle.png", left=8, top=20)]).images[0]

    Reference: Wang et al., Diffusion in Diffusion: Cyclic One-Way Diffusion for Text-Vision-Conditioned Generation,
    2306.08247.

    Differs from the paper: the crops are inverted where they lie, together with the canvas and without guidance, and
    not each alone at its own size; so one inversion serves both, whatever the number of crops.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    size = (height or model.defaults.size[0], width or model.defaults.size[1])
    shared_by_all = all(isinstance(each, Pasted) for each in conditions)
    crops = spread("conditions", [conditions] if shared_by_all else list(conditions), len(prompts))
    pixels, given = map(torch.cat, zip(*(canvas(own, *size) for own in crops), strict=True))
    x0 = model.encode(pixels)
    plan, _ = plan_of(model, x0.shape[1:], steps, guidance, DDIM(eta), None, seed)
    rest = plan.guidance
    if suppress is not None:
        rest = Diversify(suppress, diverse, guidance - 1.0).during(0.0, cycle.node(steps, cycle.low) / steps) | rest
    cond = model.condition(prompts, negative_prompt, plugins=[rest], size=size, grid=plan.grid)
    top, low = cycle.node(steps, cycle.high), cycle.node(steps, cycle.low)
    path = pivots(plan, x0, cond, first=top)
    free = 1.0 - F.adaptive_avg_pool2d(given, (x0.shape[-2], x0.shape[-1])).round()
    run = sample(
        plan.denoiser, Start.exactly(path[:, low - top], plan.grid.node(low).item()), sampler=plan.sampler,
        grid=plan.grid, cond=cond.with_alt(path=Cond({"states": path, "mask": free})), guidance=rest, hooks=[cycle],
        noise=plan.noise, setting=plan.setting,
    )  # fmt: skip
    shared = recipe(
        parts={"cycle": cycle, "guidance": rest, "sampler": plan.sampler, "patches": model.added},
        plain={"task": "cyclic_one_way", **model.identity, "steps": steps, "seed": seed, "height": size[0],
               "width": size[1]},
    )  # fmt: skip
    recipes = [
        of_picture(shared, {"prompt": p, "negative_prompt": negative_prompt}, sample=k, canvas=hash_of(own[None]))
        for k, (p, own) in enumerate(zip(prompts, pixels, strict=True))
    ]
    return Images(to_pil(model.decode(run.x)), run.x, run.nfe + plan.grid.n - top, recipes)
