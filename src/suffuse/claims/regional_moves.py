"""The claim of regional noise, regional gradients and steps made again, on the moves of `dragging`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from suffuse.core.model import Model
from suffuse.editing import DiffEditor, DragDiffusion, DragonDiffusion, Move
from suffuse.editing.task import Edits
from suffuse.evaluation import statistics
from suffuse.evaluation.features import load_reader
from suffuse.evaluation.timing import paired
from suffuse.world import TEXTURES, Caption, parse

from . import microworld as mw
from .claim import Table, at_least, at_most, claim
from .dragging import MOVES, SIDE, STEPS, Task, row, run, tasks
from .point_dragging import handles

SCENES = 64


@dataclass(frozen=True, eq=False)
class Textured(Task):
    """A task whose caption names the textures, or leaves them out as 2 in 5 captions of the world do."""

    named: bool

    @property
    def prompt(self) -> str:
        """The caption of the scene."""
        words = parse(super().prompt).phrases
        if self.named:
            textures = [TEXTURES[k] for k in self.scene.texture[0, : len(words)].tolist()]
            words = tuple(replace(p, texture=t) for p, t in zip(words, textures, strict=True))
        return str(Caption(words))

    def looks_as_before(self, pixels: Tensor) -> bool:
        """Whether the object nearest to where it is to be has the texture of the one that was moved."""
        with torch.no_grad():
            objects = load_reader(None)[0].read(pixels[None]).objects(0)
        near = sorted(objects, key=lambda o: float((torch.tensor([o.x, o.y]) * SIDE - self.goal).norm()))
        return bool(near) and near[0].texture == TEXTURES[int(self.scene.texture[0, 0])]


@claim(
    paper="diffeditor",
    expect={
        "success - dragondiffusion": at_least(0.05),
        "PSNR outside - dragondiffusion": at_least(-0.5),
        "deviation in the hole, SDE": at_least(1e-3),
        "deviation in the hole, ODE": at_most(0.0),
        "time / dragdiffusion": at_most(1.0),
        "time / dragondiffusion": at_most(1.0),
    },
    budget=900,
)
def diffeditor(seed: int) -> Table:
    """DiffEditor without its image prompt, which needs training, against DragonDiffusion: `shapes`, 64 moves by 16 px
    of striped and dotted objects, 25 DDIM steps, CFG 3; 3 of 5 captions name the texture. Success: within 4 px, same
    colour, shape and texture, old place empty. Deviation of pixels in the old place over three seeds, of 4 moves, with
    the regional noise and without it. Time: median ratio of one move to the same by DragDiffusion, which first trains a
    LoRA on the picture, and by DragonDiffusion, interleaved; the paper's Table 1 has both below 1, of which our summary
    of the paper has the first.

    Objects are textured because nothing can be gained on plain ones: in trials on other scenes DragonDiffusion
    succeeded with all of 8 each when plain objects were moved by 24 or 28 px, dragged by 16 px, or scaled, and on
    graded backgrounds; of textured ones it kept the texture of 11 of 12 that the caption named and of 7 of 20 others.

    A null result: success -0.17 [-0.27, -0.09], PSNR outside -1.6 [-3.8, 0.7] dB. Textures are kept in 67 % for 81 %.
    In a trial of 16 other moves, 13 of which DragonDiffusion made, no single addition was the reason: 11 with all, 11
    without the noise, 11 without steps made again, 12 without regional gradients, 12 with all of the steps guided.
    It takes a quarter of DragDiffusion's time, and 1.19 [1.18, 1.22] of DragonDiffusion's: with the steps made again 14
    of 25 are guided against 15, and for each of the 14 there are two gradients, one of either energy, where our
    DragonDiffusion needs one. The authors' program takes both gradients for DragonDiffusion too.
    """
    loaded = mw.model()
    drawn = tasks(SCENES, seed, MOVES[:4], textured=1.0)
    cases = [Textured(**vars(task), named=k % 5 < 3) for k, task in enumerate(drawn)]
    arms = {"DragonDiffusion": run(loaded, cases, DragonDiffusion), "DiffEditor": run(loaded, cases, DiffEditor)}
    alike = {
        name: np.array([case.looks_as_before(v) for case, v in zip(cases, arm.pixels, strict=True)])
        for name, arm in arms.items()
    }
    success = {name: arm.success * alike[name] for name, arm in arms.items()}
    plain, full = arms
    times = {
        "dragdiffusion": lambda: _dragged(loaded, cases[0]),
        "dragondiffusion": lambda: run(loaded, cases[:1], DragonDiffusion),
    }
    return Table(
        [
            {**row(name, arm), "texture kept": statistics.proportion(alike[name]),
             "success": statistics.proportion(success[name] > 0)}
            for name, arm in arms.items()
        ],
        {
            "success - dragondiffusion": statistics.difference(success[full], success[plain]),
            "PSNR outside - dragondiffusion": statistics.difference(arms[full].outside, arms[plain].outside),
            "deviation in the hole, SDE": _deviation(loaded, cases[:4], DiffEditor),
            "deviation in the hole, ODE": _deviation(loaded, cases[:4], lambda op: DiffEditor(op, eta=0.0)),
            **{
                f"time / {name}": paired(lambda: run(loaded, cases[:1], DiffEditor), other, rounds=5).ratio
                for name, other in times.items()
            },
        },
    )  # fmt: skip


def _dragged(loaded: Model, case: Task) -> Edits:
    """A move by DragDiffusion with its LoRA, of the object's centre and sides."""
    free, points = case.changed[None, None].float(), handles(case).tolist()
    return DragDiffusion()(loaded, case.image, case.prompt, points=points, mask=free, steps=STEPS)


def _deviation(loaded: Model, cases: Sequence[Task], method: Callable[[Move], DragonDiffusion]) -> float:
    """Of pixels in the old place, over seeds."""
    pixels = torch.stack([run(loaded, cases, method, seed=seed).pixels for seed in range(3)])
    hole = torch.stack([case.mask for case in cases]).expand(-1, 3, -1, -1) > 0
    return float(pixels.std(0)[hole].mean())
