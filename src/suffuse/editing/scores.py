"""How good edits are: what was to stay stays, what was asked for is there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.metric import Estimate, Metric
from ..evaluation import statistics
from ..evaluation.features import load_reader
from ..evaluation.image import MSE, PSNR, SSIM
from ..evaluation.pictures import Pictures
from ..evaluation.report import Report, evaluate
from ..evaluation.structure import StructureDistance
from ..world import parse
from ..zoo.judge import judge
from .edit_case import EditCase

KEPT: tuple[Metric, ...] = (PSNR("outside"), SSIM("outside"), MSE("outside"))
"""What is measured outside of the region, against the picture before the edit."""


def scores(
    cases: Sequence[EditCase],
    images: Tensor,
    *,
    structure: Metric = StructureDistance(),
    kept: Sequence[Metric] = KEPT,
    text: Sequence[Metric] = (),
) -> Report:
    """The figures of PIE-Bench.

    Cases whose region is the whole picture have nothing that was to stay, and are left out of those figures; so are
    cases with an empty region from the text similarity of the edited part.

    Args:
        cases: what was asked for.
        images: (B, 3, H, W) edits in [-1, 1].
        structure: compares layouts, with the DINO keys of the paper or with the reader.
        kept: measured outside of the region; LPIPS may be added.
        text: agreement with the prompts, such as CLIPScore and DirectionalCLIP, on the whole and on the edited part.
    """
    if len(cases) != len(images):
        raise BadInput(f"images: {len(images)} for {len(cases)} cases; give one each")
    before, mask = torch.stack([c.image for c in cases]).to(images), torch.stack([c.mask for c in cases])
    prompts, sources = [c.target for c in cases], [c.source for c in cases]
    figures = dict(evaluate(Pictures(images, prompts, before, mask, sources), [structure, *text]).figures)
    partial = (~mask).flatten(1).any(1)
    if bool(partial.any()):
        figures |= evaluate(Pictures(images[partial], (), before[partial], mask[partial]), kept).figures
    edited = mask.flatten(1).any(1).nonzero()[:, 0]
    if text and len(edited):
        shown, hidden = (torch.where(mask[edited, None], v[edited], -1.0) for v in (images, before))
        said, told = ([texts[i] for i in edited.tolist()] for texts in (prompts, sources))
        parts = evaluate(Pictures(shown, said, hidden, sources=told), text).figures
        figures |= {f"{name} inside": value for name, value in parts.items()}
    return Report(figures)


def requested(cases: Sequence[EditCase], images: Tensor) -> Tensor:
    """(B,) bool: whether the reader finds what each edit asks for, an object of that colour, shape and texture."""
    reader, _ = load_reader(None)
    with torch.no_grad():
        found = judge(reader.read(images), [parse(c.wanted) for c in cases])
    return found.objects.right & found.texture.right


def accuracy(cases: Sequence[EditCase], images: Tensor) -> Estimate:
    """Share of `requested`, with Wilson's interval."""
    return statistics.proportion(requested(cases, images).numpy()).under("requested attribute, read by the reader")
