"""The claim of an image prompt, regional noise, regional gradients and steps made again, on the moves of `dragging`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from suffuse.core.model import Model
from suffuse.editing import DiffEditor, DragDiffusion, DragonDiffusion, Move
from suffuse.editing.task import Edits
from suffuse.evaluation import statistics
from suffuse.evaluation.features import load_reader
from suffuse.evaluation.timing import paired
from suffuse.world import TEXTURES

from . import microworld as mw
from .claim import Table, at_least, at_most, claim
from .dragging import MOVES, SIDE, STEPS, Task, row, run, tasks
from .image_prompts import trained
from .point_dragging import handles

SCENES, SHOWN = 40, 1.0
"""Moves, and the scale of the image prompt."""


@claim(
    paper="diffeditor",
    expect={
        "success - dragondiffusion": at_least(0.05),
        "PSNR outside - dragondiffusion": at_least(-0.5),
        "deviation in the hole, SDE": at_least(1e-3),
        "deviation in the hole, ODE": at_most(0.0),
        "time / dragdiffusion": at_most(1.0),
    },
    budget=1500,
)
def diffeditor(seed: int) -> Table:
    """DiffEditor with an image prompt that is trained here against DragonDiffusion: `shapes`, 40 moves by 16 px of
    striped and dotted objects, 25 DDIM steps, CFG 3; captions name colour and shape and leave the texture to the
    picture. Success: within 4 px, same colour, shape and texture, old place empty. Deviation of pixels in the old place
    over three seeds, of 4 moves, with the regional noise and without it. Time: median ratio of one move to the same by
    DragDiffusion, which first trains a LoRA on the picture, and by DragonDiffusion, interleaved. The latter is not
    judged: the authors' DragonDiffusion takes two gradients in each guided step, one of either energy, as DiffEditor
    does, and ours takes one.

    The image prompt, `image_prompts`, is the paper's in small: hidden states of the reader for CLIP's, 16 queries for
    64, ten minutes of training. The scale, 1 for the paper's 0.1, was chosen by what it draws from noise, of 32 other
    scenes whose captions leave the texture out: the texture of the picture 24 times at 1, 12 at 0.5, once at 0.1, and
    never without. It acts in the paper's steps 10 to 19 of 50, in which alone it drew 7.

    The reader judges what was trained on its features, by the denoising loss alone. Without it: the deviation of pixels
    inside of the object was off by 12 % of the source's for DragonDiffusion's 21 %, nearer by 0.09 [0.02, 0.18], in 16
    moves of the other scenes; pixel by pixel objects are no nearer, squared error 1.09 [0.93, 1.24] of these 40 moves:
    stripes and dots come back, not each at its place.

    Without the image prompt DiffEditor is worse: where 3 of 5 captions named the texture its success was 0.17 [0.09,
    0.27] below DragonDiffusion's, 64 moves. On plain objects nothing can be gained, DragonDiffusion moves them all.
    """
    loaded, cases = mw.model(), tasks(SCENES, seed, MOVES[:4], textured=1.0)
    prompt, losses = trained(loaded, seed)
    tenth = len(losses) // 10

    def whole(operation: Move, eta: float = 0.4) -> DiffEditor:
        return DiffEditor(operation, eta=eta, image_prompt=prompt, shown=SHOWN)

    methods = {"DragonDiffusion": DragonDiffusion, "DiffEditor": whole, "without image prompt": DiffEditor}
    arms = {name: run(loaded, cases, method) for name, method in methods.items()}
    alike = {name: looks_as_before(cases, arm.pixels) for name, arm in arms.items()}
    success = {name: arm.success * alike[name] for name, arm in arms.items()}
    plain, full, untold = arms
    times: dict[str, Callable[[], object]] = {
        "dragdiffusion": lambda: _dragged(loaded, cases[0]),
        "dragondiffusion": lambda: run(loaded, cases[:1], DragonDiffusion),
    }
    return Table(
        [
            {**row(name, arm), "texture kept": statistics.proportion(alike[name] > 0),
             "success": statistics.proportion(success[name] > 0)}
            for name, arm in arms.items()
        ],
        {
            "success - dragondiffusion": statistics.difference(success[full], success[plain]),
            "success, without image prompt - dragondiffusion": statistics.difference(success[untold], success[plain]),
            "PSNR outside - dragondiffusion": statistics.difference(arms[full].outside, arms[plain].outside),
            "loss of the image prompt, last tenth / first": sum(losses[-tenth:]) / sum(losses[:tenth]),
            "deviation in the hole, SDE": _deviation(loaded, cases[:4], whole),
            "deviation in the hole, ODE": _deviation(loaded, cases[:4], lambda op: whole(op, eta=0.0)),
            **{
                f"time / {name}": paired(lambda: run(loaded, cases[:1], whole), other, rounds=5).ratio
                for name, other in times.items()
            },
        },
    )  # fmt: skip


def looks_as_before(cases: Sequence[Task], pixels: Tensor) -> np.ndarray:
    """(n,) 1.0 where the object nearest to where it is to be has the texture of the one that was moved."""
    with torch.no_grad():
        reading = load_reader(None)[0].read(pixels)
    kept = []
    for k, case in enumerate(cases):
        near = sorted(reading.objects(k), key=lambda o: float((torch.tensor([o.x, o.y]) * SIDE - case.goal).norm()))
        kept.append(bool(near) and near[0].texture == TEXTURES[int(case.scene.texture[0, 0])])
    return np.array(kept, dtype=float)


def _dragged(loaded: Model, case: Task) -> Edits:
    """A move by DragDiffusion with its LoRA, of the object's centre and sides."""
    free, points = case.changed[None, None].float(), handles(case).tolist()
    return DragDiffusion()(loaded, case.image, case.prompt, points=points, mask=free, steps=STEPS)


def _deviation(loaded: Model, cases: Sequence[Task], method: Callable[[Move], DragonDiffusion]) -> float:
    """Of pixels in the old place, over seeds."""
    pixels = torch.stack([run(loaded, cases, method, seed=seed).pixels for seed in range(3)])
    hole = torch.stack([case.mask for case in cases]).expand(-1, 3, -1, -1) > 0
    return float(pixels.std(0)[hole].mean())
