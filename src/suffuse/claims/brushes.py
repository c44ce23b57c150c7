"""Claims of methods that change a part of a picture under a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffuse.core.hook import StepFunction
from suffuse.core.step import Step
from suffuse.core.value import Value
from suffuse.editing import Canvas, CyclicOneWay, EditBench, Pasted, cyclic_one_way, diffusion_brush
from suffuse.editing.edit_case import EditCase
from suffuse.evaluation import Pictures, statistics
from suffuse.evaluation.features import load_reader
from suffuse.evaluation.image import PSNR
from suffuse.evaluation.timing import paired
from suffuse.images import to_tensor
from suffuse.world import Caption, parse
from suffuse.zoo.judge import judge

from . import microworld as mw
from .claim import Cell, Table, at_least, at_most, claim

STEPS, FAULTY, SEEDS, START, SCENES = 20, 32, 8, 0.4, 96
HOW: dict[str, Any] = {"steps": STEPS, "guidance": mw.GUIDANCE}
MARGIN = 1.6
"""Radius of a stroke, at half of its strength, in radii of the object under it."""
FORGOTTEN = 0.8
"""Upper level of the cycles, as a share of the steps."""
SOFT = 2.0
"""Slope of its border: strength lost over one radius of the object."""


@claim(
    paper="diffusion-brush",
    expect={
        "fixed by the best of 8 seeds": at_least(0.6),
        "PSNR outside, as decoded": at_least(30.0),
        "seam / inpainting": at_most(1.0),
        "time of half a run / whole": at_most(0.55),
        "PSNR outside of another seed": at_most(20.0),
    },
    budget=600,
)
def brush(seed: int) -> Table:
    """Objects with one wrong attribute, painted over: pictures that `shapes` made of the captions before the colour and
    shape swaps of EditBench (20 steps of DDIM, CFG 3), the first 32 in which the reader finds one object, and only one,
    that is not in the caption after it. One soft stroke over it (1.6 radii, alpha = 1, from 40 % of the run on, the
    caption after the swap), 8 seeds: share of pictures in which some seed makes all objects right. PSNR outside is of
    the decoded layer before pixels are put back, first seed; of another seed, of the whole picture made anew. Seam is
    the mean difference of neighbouring pixels of which one is in the mask, against latent inpainting under the same
    mask. Time is the median ratio of a stroke at half of the run to a whole run, interleaved.

    The model errs too rarely for 32 errors of its own (1 of 64 pictures of two objects), hence the swaps.
    """
    loaded = mw.model()
    fixed, kept, seams, inpainted, anew = [], [], [], [], []
    for k, case in enumerate(EditBench(2 * FAULTY, seed=seed)):
        canvas, wanted = diffusion_brush(loaded, case.source, seed=k, **HOW), parse(case.target)
        mask = _over_the_wrong_one(canvas.pixels, wanted)
        if mask is None:
            continue
        strokes = [canvas.paint(mask, START, seed=s, prompt=case.target) for s in range(SEEDS)]
        results = torch.cat([each.render() for each in strokes])
        fixed.append(bool(_right(results, [wanted] * SEEDS).any()))
        layer = canvas.made[strokes[0].strokes[0].key]
        again = loaded.generate(case.source, seed=k + 2 * FAULTY, **HOW)
        painted = loaded.generate(case.target, image=canvas.pixels, mask_image=mask, seed=k, **HOW)
        kept.append(_outside(layer, canvas, mask))
        anew.append(_outside(to_tensor(again.images), canvas, mask))
        seams.append(seam(results[:1], mask))
        inpainted.append(seam(to_tensor(painted.images), mask))
        if len(fixed) == FAULTY:
            break
    whole = torch.ones(1, 1, *loaded.defaults.size)
    time = paired(
        lambda: canvas.arrange([]).paint(whole, 0.5, seed=len(canvas.made)).render(),
        lambda: diffusion_brush(loaded, case.source, **HOW),
        rounds=5,
    )
    figures = {
        "fixed by the best of 8 seeds": statistics.proportion(fixed),
        "PSNR outside, as decoded": statistics.mean(kept),
        "seam / inpainting": statistics.ratio(seams, inpainted),
        "time of half a run / whole": time.ratio,
        "PSNR outside of another seed": statistics.mean(anew),
    }
    return Table([{"pictures": len(fixed), **figures}], figures)


@claim(
    paper="cow",
    expect={
        "PSNR inside": at_least(18.0),
        "seam / pasting to the end": at_most(0.8),
        "accuracy - plain": at_least(-0.1),
        "seam / no cycles": at_most(1.0),
    },
    budget=900,
)
def one_way(seed: int) -> Table:
    """Objects of true pictures put into new scenes: `shapes`, 96 crops (the first object of EditBench's pictures of
    two, with two pixels around it, at its place) and the caption of both, 20 steps of DDIM, CFG 3, 10 cycles between
    0.5 T and 0.8 T. PSNR inside of the crop against it; seam, the mean difference of neighbouring pixels of which one
    is in the crop, against the same run with the crop put in down to the last step, and against a run without cycles;
    share of pictures in which the reader finds both objects, against plain generation of the caption.

    The levels were found on 48 other scenes without a crop. The upper one is the lowest of 0.5 T, 0.6 T, .. from which
    a noised grey canvas is forgotten, as the paper's 0.7 T, of Stable Diffusion, is not here: 44 scenes came out right
    from 0.8 T and 44 from noise alone, 43 from 0.7 T (and 20 of 24 in an earlier trial, for 24 from noise), 28 from
    0.5 T. The lower one is the highest from which true pictures keep what they show where it is: 99 % of their objects
    from 0.5 T, 93 % from 0.6 T. With 0.7 T as the upper level accuracy fell by 23 points [14, 32], and what was missing
    was mostly the second object, which the cycles have to make on the grey canvas.
    """
    loaded, cases = mw.model(), EditBench(SCENES, kinds=("colour",), objects=(0.0, 1.0), seed=seed)
    arms = {
        "cycles": CyclicOneWay(high=FORGOTTEN),
        "to the end": ToTheEnd(high=FORGOTTEN),
        "no cycles": CyclicOneWay(cycles=0),
    }
    made: dict[str, list[Tensor]] = {name: [] for name in (*arms, "plain")}
    for k in range(0, SCENES, 16):
        prompts, crops = zip(*((case.source, [_crop(case)]) for case in list(cases)[k : k + 16]), strict=True)
        for name, cycle in arms.items():
            made[name].append(to_tensor(cyclic_one_way(loaded, prompts, crops, cycle=cycle, seed=k, **HOW).images))
        made["plain"].append(to_tensor(loaded.generate(prompts, seed=k, **HOW).images))
    masks = [case.mask[None, None].float() for case in cases]
    seams = {name: [seam(v[None], m) for v, m in zip(torch.cat(made[name]), masks, strict=True)] for name in arms}
    right = {name: _right(torch.cat(v), [parse(c.source) for c in cases]).double() for name, v in made.items()}
    before, mask = torch.stack([c.image for c in cases]), torch.cat(masks)
    inside = {n: PSNR("inside").score(Pictures(torch.cat(made[n]), (), before, mask)) for n in arms}
    found: list[Mapping[str, Cell]] = [
        {
            "arm": n,
            "PSNR inside": statistics.mean(inside[n]),
            "seam": statistics.mean(seams[n]),
            "accuracy": right[n].mean().item(),
        }
        for n in arms
    ]
    return Table(
        [*found, {"arm": "plain", "accuracy": right["plain"].mean().item()}],
        {
            "PSNR inside": statistics.mean(inside["cycles"]),
            "seam / pasting to the end": statistics.ratio(seams["cycles"], seams["to the end"]),
            "accuracy - plain": statistics.difference(right["cycles"], right["plain"]),
            "seam / no cycles": statistics.ratio(seams["cycles"], seams["no cycles"]),
        },
    )


def _crop(case: EditCase) -> Pasted:
    """The first object of a case with what is around it, at its place."""
    rows, columns = (case.mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
    box = (..., slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    return Pasted(case.image[box], int(columns[0]), int(rows[0]), case.mask[box][None, None].float())


@dataclass(frozen=True)
class ToTheEnd(CyclicOneWay):
    """The crop is put in after every step: no free final phase."""

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        return self._put(super().__call__(step, x, at), step.cond, at.i + 1, at)


def seam(pixels: Tensor, mask: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels (1, 3, H, W) of which one is in the mask and the other is not."""
    inside, total, pairs = mask > 0.5, 0.0, 0
    for axis in (2, 3):
        steps = pixels.diff(dim=axis).abs().mean(1, keepdim=True)
        crossing = inside.float().diff(dim=axis) != 0
        total, pairs = total + float(steps[crossing].sum()), pairs + int(crossing.sum())
    return total / pairs


def _right(pixels: Tensor, captions: Sequence[Caption]) -> Tensor:
    """(B,) bool: whether all objects are there in shape and colour."""
    reader, _ = load_reader(None)
    with torch.no_grad():
        return judge(reader.read(pixels), captions).objects.right


def _outside(pixels: Tensor, canvas: Canvas, mask: Tensor) -> float:
    """PSNR outside of the mask against the picture."""
    return float(PSNR("outside").score(Pictures(pixels, (), canvas.pixels, mask)))


def _over_the_wrong_one(pixels: Tensor, wanted: Caption) -> Tensor | None:
    """(1, 1, H, W): a disc over the one object that is not wanted, None where there is not exactly one."""
    reader, _ = load_reader(None)
    with torch.no_grad():
        objects = reader.read(pixels).objects(0)
    asked = {(p.shape, p.colour) for p in wanted.objects}
    wrong = [o for o in objects if (o.shape, o.colour) not in asked]
    if len(objects) != wanted.count or len(wrong) != 1:
        return None
    height, width = pixels.shape[-2:]
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    (it,) = wrong
    return (SOFT * (MARGIN - (x - it.x).hypot(y - it.y) / it.radius) + 0.5).clamp(0, 1)[None, None]
