"""Claims of methods that make pictures agree with their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from suffuse.core.engine import sample
from suffuse.core.model import Model
from suffuse.core.patch import Patch
from suffuse.evaluation import statistics
from suffuse.guidance.cfg import CFG
from suffuse.guidance.questions import ReaderVQA, TIFASelect
from suffuse.guidance.selection import best_of
from suffuse.guidance.structured import StructuredDiffusion
from suffuse.samplers.ancestral import DDIM
from suffuse.world import Caption
from suffuse.zoo.recipes import reader

from . import microworld as mw
from .claim import Cell, Figure, Table, at_most, claim
from .leaking_words import LEAK, reading_words

STEPS = 10
NOISES = 2
"""Noises that structured guidance is tried with for each caption."""


def two_colours(n: int) -> list[Caption]:
    """Captions of two objects of different colours."""
    return [c for c in mw.captions(512, objects=2) if len({p.colour for p in c.phrases}) == 2][:n]


def pictures(
    loaded: Model, texts: Sequence[Caption], scale: float, seed: int, patches: Sequence[Patch] = ()
) -> mw.Pictures:
    """Pictures of captions in few steps, at a scale at which the model makes mistakes."""
    parts = []
    for rows in torch.arange(len(texts)).split(64):
        some = [texts[i] for i in rows]
        place = mw.place(loaded, some)
        place["cond"] = loaded.condition([str(c) for c in some], plugins=patches)
        parts.append(
            sample(
                **place, sampler=DDIM(), steps=STEPS, guidance=CFG(scale), patches=patches, noise=seed,
                samples=rows.tolist(),
            )
        )  # fmt: skip
    latents = torch.cat([part.x for part in parts])
    decoded = torch.cat([loaded.decode(x).clamp(-1, 1) for x in latents.split(64)])
    return mw.Pictures(latents, torch.cat([part.nfe for part in parts]), decoded, texts)


@claim(paper="structured-guidance", expect={"errors / baseline": at_most(0.95)}, budget=900)
def structured_guidance(seed: int) -> Table:
    """Structured Diffusion Guidance against the same run without it: `shapes` trained here for 800 steps to read the
    words of a prompt alone, each of which is mixed to 0.6 with the mean of all (see `leaking_words`); the 157
    validation captions of two objects of two colours with 2 noises each, the same for every arm, DDIM in 10 steps, CFG
    3. An error is a picture in which the reader misses the shape and colour of an object. Intervals are over captions.

    The method mends words that have taken on what other phrases say, as they do in CLIP, and needs a network that reads
    them. The bundled model is neither: its encoder was trained on such captions, it binds 7 of 1256 pictures wrongly,
    and it reads prompts from their end and padding, which the method leaves alone. There it changes nothing, 1.01
    [0.95, 1.06] at scale 1; nor, 0.98 [0.79, 1.19], for a network trained to read words that do not leak. The leak was
    chosen on other captions, as one that leaves about half of the pictures wrong.
    """
    texts = two_colours(192)
    arms: dict[str, Sequence[Patch]] = {
        "plain": (),
        "StructuredDiffusion": (StructuredDiffusion(),),
        "StructuredDiffusion(conjunction=True)": (StructuredDiffusion(conjunction=True),),
    }
    rows: list[Mapping[str, Cell]] = []
    figures: dict[str, Figure] = {}
    for leak in (LEAK, 0.0):
        loaded, errors = reading_words(seed, leak), {}
        for name, patches in arms.items():
            runs = [pictures(loaded, texts, mw.GUIDANCE, seed + 1000 * k, patches).judgement for k in range(NOISES)]
            wrong, shape, colour = (torch.stack(v).double().mean(0).numpy() for v in zip(
                *((~v.objects.right, ~v.shape.right, ~v.colour.right) for v in runs), strict=True
            ))  # fmt: skip
            errors[name] = wrong
            rows.append({
                "leak": leak, "arm": name, "errors": statistics.mean(wrong), "wrong shape": statistics.mean(shape),
                "wrong colour": statistics.mean(colour),
            })  # fmt: skip
        plain, structured, conjunction = errors.values()
        where = "" if leak else ", no leak"
        figures[f"errors / baseline{where}"] = statistics.ratio(structured, plain)
        figures[f"errors as a conjunction / baseline{where}"] = statistics.ratio(conjunction, plain)
    return Table(rows, figures)


@claim(
    paper="imageselect",
    expect={
        "errors of 4 / of 1": at_most(0.6),
        "largest ratio of errors as N doubles": at_most(1.0),
        "errors of 4 / structured guidance": at_most(1.0),
    },
    budget=600,
)
def imageselect(seed: int) -> Table:
    """The best of N = 1, 2, 4, 8 candidates, 64 captions of two objects of two colours, DDIM in 10 steps, unguided.

    The selector asks a small reader that is trained here, 400 steps from another seed; the judge is the bundled reader.
    An error is a picture in which the judge finds anything wrong: an object, a texture, a size, their number, their
    relation, the background. Errors of N < 8 are means over all subsets of the eight. Structured Diffusion Guidance
    with one candidate stands beside them.
    """
    texts, candidates = two_colours(64), 8
    with TemporaryDirectory() as folder:
        built = reader.build(folder, 400, seed=seed + 100, report=lambda progress: None)
        chosen_by, wrong = _candidates(texts, candidates, seed, TIFASelect(ReaderVQA(str(built.folder))))
    errors = {n: best_of(chosen_by, wrong, n).numpy() for n in (1, 2, 4, 8)}
    structured = _wrong(pictures(mw.model(), texts, 1.0, seed, (StructuredDiffusion(),))).numpy()
    rows: list[Mapping[str, Cell]] = [
        {"arm": f"best of {n}", "evaluations": STEPS * n, "errors": statistics.mean(e)} for n, e in errors.items()
    ]
    rows.append({"arm": "StructuredDiffusion", "evaluations": STEPS, "errors": statistics.mean(structured)})
    doubled = [statistics.ratio(errors[2 * n], errors[n]) for n in (1, 2, 4)]
    figures: dict[str, Figure] = {
        "errors of 4 / of 1": statistics.ratio(errors[4], errors[1]),
        "largest ratio of errors as N doubles": max(doubled, key=lambda r: r.mean),
        "errors of 4 / structured guidance": statistics.ratio(errors[4], structured),
    }
    return Table(rows, figures)


def _candidates(texts: Sequence[Caption], n: int, seed: int, scorer: TIFASelect) -> tuple[Tensor, Tensor]:
    """(P, n) scores of the selector, and 1 where the judge finds something wrong."""
    scores, wrong = [], []
    for k in range(n):
        made = pictures(mw.model(), texts, 1.0, seed + 1000 * k)
        scores.append([scorer(p[None], str(c)).values.item() for p, c in zip(made.pixels, texts, strict=True)])
        wrong.append(_wrong(made))
    return torch.tensor(scores).T, torch.stack(wrong, 1)


def _wrong(made: mw.Pictures) -> Tensor:
    return (~made.judgement.whole.right).double()
