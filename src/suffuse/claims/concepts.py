"""Claims of methods that steer by directions of concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.guidance import Guidance
from suffuse.core.model import Model
from suffuse.evaluation import statistics
from suffuse.evaluation.features import load_reader
from suffuse.evaluation.image import SSIM
from suffuse.evaluation.pictures import Pictures
from suffuse.guidance.cfg import CFG
from suffuse.guidance.directions import Concept
from suffuse.guidance.sega import SEGA, StableArtist, Steering
from suffuse.guidance.semantic_tuning import SemanticGuidanceTuning
from suffuse.samplers.ancestral import DDIM
from suffuse.world import COLOURS, HELD_OUT, TEXTURES, Caption, Phrase, WorldConfig, describe, sample_scenes
from suffuse.zoo.judge import judge

from . import microworld as mw
from .claim import Cell, Figure, Table, at_least, at_most, claim
from .leaking_words import LEAK, reading_words

STEPS = 20
MARGIN = 0.3
"""Share of an object's radius around it that is counted as the object, because its edge and shadow are blurred."""


# edits of one object --------------------------------------------------------------------------------------------------
def _recoloured(phrase: Phrase) -> Phrase:
    """The phrase with a colour half-way around the list, or the next that the model has seen with this shape."""
    half = COLOURS.index(phrase.colour) + len(COLOURS) // 2
    colours = [COLOURS[(half + k) % len(COLOURS)] for k in range(2)]
    return replace(phrase, colour=next(c for c in colours if (c, phrase.shape) not in HELD_OUT))


def _textured(phrase: Phrase, k: int) -> Phrase:
    return replace(phrase, texture=TEXTURES[1 + k % 2])


def _edits(texts: Sequence[Caption], swap: bool = False) -> list[Phrase]:
    """A change of colour and one of texture, by turns."""
    return [
        _recoloured(c.phrases[0]) if (k % 2 == 0) != swap else _textured(c.phrases[0], k // 2)
        for k, c in enumerate(texts)
    ]


def _made(
    loaded: Model, texts: Sequence[Caption], guidance: Guidance, concepts: Mapping[str, Sequence[Phrase]], seed: int
) -> Tensor:
    """Pictures of captions under a guidance whose concepts differ from picture to picture."""
    pixels = []
    for rows in torch.arange(len(texts)).split(32):
        part = mw.place(loaded, [texts[i] for i in rows])
        named = {
            f"concept:{name}": Cond(loaded.condition([str(Caption((phrases[i],))) for i in rows]).entries)
            for name, phrases in concepts.items()
        }
        part["cond"] = part["cond"].with_alt(**named)
        out = sample(**part, guidance=guidance, sampler=DDIM(), steps=STEPS, noise=seed, samples=rows.tolist())
        pixels.append(loaded.decode(out.x).clamp(-1, 1))
    return torch.cat(pixels)


def _seen(pixels: Tensor, wanted: Sequence[Phrase]) -> tuple[Tensor, Tensor]:
    """(n,) whether the reader finds what is wanted, in shape, colour and texture, and how probable it thinks it is."""
    reader, _ = load_reader(None)
    with torch.no_grad():
        found = judge(reader.read(pixels), [Caption((phrase,)) for phrase in wanted])
    return found.objects.right & found.texture.right, (found.objects.score * found.texture.score).double()


def _outside(pixels: Tensor) -> Tensor:
    """(n, H, W) bool: away from the object that the reader finds in each picture."""
    reader, _ = load_reader(None)
    with torch.no_grad():
        seen = reader.read(pixels)
    side = pixels.shape[-1]
    line = (torch.arange(side) + 0.5) / side
    x, y, radius = (v[:, 0, None, None] for v in (seen.x, seen.y, seen.radius))
    return (line[None, None, :] - x).square() + (line[None, :, None] - y).square() > ((1 + MARGIN) * radius).square()


def _swap(
    scale: float, threshold: float, *, start: float = 0.2, weight: float = 1.0, to: str = "after"
) -> tuple[Concept, Concept]:
    """Concepts that lead from how an object was described to how it is to be."""
    new = Concept(to, scale, threshold, weight, start=start)
    return new, replace(new, prompt="before", remove=True)


@claim(
    paper="sega",
    expect={
        "edits found - without": at_least(0.4),
        "change outside / re-prompting": at_most(0.6),
        "scale 0, largest difference": at_most(0.0),
    },
    budget=300,
)
def sega(seed: int) -> Table:
    """SEGA against writing another prompt at the same seed: 64 validation captions of one plain object, of which every
    other changes its colour and the rest become striped or dotted; `shapes`, 20 DDIM steps, CFG 3. The object as it is
    to be is added and as it was removed, at scale 3, the largest 5 % of entries, from the first fifth of the run on.
    Edits found is the share of pictures in which the bundled reader sees the shape, colour and texture asked for;
    change outside is the mean absolute difference to the unedited picture away from its object. Scale and threshold
    were chosen on other captions.
    """
    loaded = mw.model()
    texts = _plain(64)
    wanted, before = _edits(texts), [c.phrases[0] for c in texts]
    concepts = {"after": wanted, "before": before}
    edited = [replace(c, phrases=(p,)) for c, p in zip(texts, wanted, strict=True)]
    arms = {
        "unedited": _made(loaded, texts, CFG(mw.GUIDANCE), {}, seed),
        "re-prompting": _made(loaded, edited, CFG(mw.GUIDANCE), {}, seed),
        "SEGA": _made(loaded, texts, SEGA(_swap(3.0, 0.95)) | CFG(mw.GUIDANCE), concepts, seed),
    }
    plain, outside = arms["unedited"], _outside(arms["unedited"])
    change = {
        name: (((x - plain).abs().mean(1) * outside).sum((1, 2)) / outside.sum((1, 2))).double().numpy()
        for name, x in arms.items()
    }
    hits = {name: _seen(x, wanted)[0].double().numpy() for name, x in arms.items()}
    rows: list[Mapping[str, Cell]] = [
        {"arm": n, "edits found": statistics.proportion(hits[n]), "change outside": statistics.mean(change[n])}
        for n in arms
    ]
    few = slice(0, 8)
    still = _made(loaded, texts[few], SEGA(_swap(0.0, 0.95)) | CFG(mw.GUIDANCE), _rows(concepts, few), seed)
    alone = _made(loaded, texts[few], CFG(mw.GUIDANCE), {}, seed)
    figures: dict[str, Figure] = {
        "edits found - without": statistics.difference(hits["SEGA"], hits["unedited"]),
        "edits found - re-prompting": statistics.difference(hits["SEGA"], hits["re-prompting"]),
        "change outside / re-prompting": statistics.ratio(change["SEGA"], change["re-prompting"]),
        "scale 0, largest difference": float((still - alone).abs().max()),
    }
    return Table(rows, figures)


def _plain(n: int) -> list[Caption]:
    """The first n validation captions of one object whose texture is not said."""
    return [c for c in mw.captions(512, objects=1) if c.phrases[0].texture is None][:n]


def _rows(concepts: Mapping[str, Sequence[Phrase]], rows: slice) -> dict[str, Sequence[Phrase]]:
    return {name: phrases[rows] for name, phrases in concepts.items()}


LEVELS = (0.25, 0.5, 0.75, 1.0)


@claim(
    paper="stable-artist",
    expect={
        "rank correlation of strength and probability": at_least(0.7),
        "largest rise of SSIM to the start": at_most(0.0),
        "both edits kept": at_least(0.6),
    },
    budget=400,
)
def stable_artist(seed: int) -> Table:
    """The Stable Artist's slider and its chain of edits: 32 validation captions of one plain object, edits of colour
    and of texture by turns as in the claim of SEGA; `shapes`, 20 DDIM steps, CFG 3, w = 3. The threshold is 0.5, as
    noise predictions of this model differ by more than those of Stable Diffusion.

    The weight of the edit goes from 0 to 1 in quarters: Spearman's correlation, scene by scene, of the weight with the
    probability that the reader gives to what was asked for; and SSIM to the unedited picture, whose mean must fall
    from each weight to the next. Then the other edit (texture for colour, colour for texture) is made, alone and on
    top: the share of chains in which the reader sees both, of those whose edits it sees when made alone.
    """
    loaded = mw.model()
    texts = _plain(32)
    first, second = _edits(texts), _edits(texts, swap=True)
    both = [
        replace(a, colour=b.colour) if k % 2 else replace(a, texture=b.texture)
        for k, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    concepts = {"after": first, "other": second, "before": [c.phrases[0] for c in texts]}

    def run(*edits: Concept) -> Tensor:
        steering: Steering = StableArtist(edits, w=mw.GUIDANCE)
        return _made(loaded, texts, steering | CFG(mw.GUIDANCE), concepts if edits else {}, seed)

    start = run()
    pictures = [start, *(run(*_swap(5.0, 0.5, weight=level)) for level in LEVELS)]
    chance = np.stack([_seen(x, first)[1].numpy() for x in pictures])
    likeness = [SSIM().score(Pictures(x, references=start)).double().numpy() for x in pictures]
    ranks = [float(spearmanr((0.0, *LEVELS), column).statistic) for column in chance.T]
    alone = run(*_swap(5.0, 0.5, to="other"))
    chained = run(*_swap(5.0, 0.5), *_swap(5.0, 0.5, to="other"))
    eligible = _seen(pictures[-1], first)[0] & _seen(alone, second)[0]
    kept = _seen(chained, both)[0][eligible]
    rows: list[Mapping[str, Cell]] = [
        {"weight": level, "probability": statistics.mean(p), "SSIM to the start": statistics.mean(s)}
        for level, p, s in zip((0.0, *LEVELS), chance, likeness, strict=True)
    ]
    means = np.array([s.mean() for s in likeness])
    return Table(
        rows,
        {
            "rank correlation of strength and probability": statistics.mean(np.nan_to_num(ranks)),
            "largest rise of SSIM to the start": float(np.diff(means).max()),
            "chains whose edits both succeed alone": float(eligible.sum()),
            "both edits kept": statistics.proportion(kept.numpy()),
        },
    )


# prompts of several objects -------------------------------------------------------------------------------------------
def _two(n: int, seed: int) -> list[Caption]:
    """n captions of two unlike objects and nothing else."""
    scenes = sample_scenes(4 * n, (seed, 3), WorldConfig(objects=(0.0, 1.0), equal=0.0))
    return [c for c in describe(scenes, (seed, 3)) if len(c.phrases) == 2 and c.background is None][:n]


def _missing(pixels: Tensor, texts: Sequence[Caption]) -> Tensor:
    """(n, 2) which objects the reader does not find in shape and colour."""
    bare = [[replace(p, texture=None, size=None) for p in c.phrases] for c in texts]
    return torch.stack([~_seen(pixels, [phrases[k] for phrases in bare])[0] for k in range(2)], 1)


def _within(similarity: Tensor, missing: Tensor) -> np.ndarray:
    """For each prompt with missing and with present objects, how often the missing one has the lower similarity."""
    shares = []
    for s, gone in zip(similarity, missing, strict=True):
        if gone.any() and not gone.all():
            lower = s[gone][:, None] < s[~gone]
            shares.append(float(lower.double().mean()))
    return np.array(shares)


@claim(
    paper="semantic-guidance-tuning",
    expect={"missing objects / CFG": at_most(0.9), "AUC of similarity": at_least(0.6)},
    budget=900,
)
def semantic_guidance_tuning(seed: int) -> Table:
    """Semantic Guidance Tuning against CFG at equal steps: `shapes` trained here for 800 steps to read the words of a
    prompt alone, each of which is mixed to 0.6 with the mean of all (see `leaking_words`); 192 captions of two unlike
    objects, 20 DDIM steps, CFG 3. Missing is the share of objects that the bundled reader does not find in shape and
    colour. The AUC is taken within prompts, on the run of CFG: how often an object that is missing has a lower mean
    similarity than one of the same picture that is there.

    Phrases that are neglected, as CLIP's words make Stable Diffusion neglect them, are what the method mends; the
    bundled model itself leaves out fewer than 2 % of two objects. The paper's scale, beside 3 for the prompt, and its
    start; it ends at half of the run, because in trials where words leaked only after the training, going on to the end
    left out 1.2 to 1.9 times as much as CFG. The thresholds are those below which a quarter of the similarities of 32
    other captions lies.

    A null result: similarity tells which object will be missing, but steering towards it does not bring it, 1.05 [0.92,
    1.20]. Five settings that end by half of the run had left out 0.78 to 0.93 of what CFG does on 149 other captions,
    and three, the best of the five among them, 0.96 to 1.00 on another 192. Nor does it help the bundled model with
    three objects, 0.98 [0.86, 1.11], nor after 1500 steps of training on captions that name some of the objects only,
    at best 1.07 [1.00, 1.20] in a trial of 48.
    """
    loaded = reading_words(seed, LEAK)
    texts = _two(224, 7)
    test, held = texts[:192], texts[192:]

    def arguments(some: Sequence[Caption]) -> dict:
        cond = loaded.condition([str(c) for c in some], plugins=[SemanticGuidanceTuning()])
        return {**mw.place(loaded, some), "cond": cond, "sampler": DDIM(), "steps": STEPS}

    prompt = CFG(mw.GUIDANCE)
    tuning = SemanticGuidanceTuning(w=3.4, start=0.1, stop=0.5)
    tuning = tuning.fit(**arguments(held), guidance=prompt, share=0.25, noise=seed + 1000)
    arms = {"CFG": replace(tuning, w=0.0), "SemanticGuidanceTuning": tuning}
    missing, curves, nfe = {}, {}, {}
    for name, guidance in arms.items():
        parts = [
            sample(**arguments([test[i] for i in rows]), guidance=guidance | prompt, noise=seed, samples=rows.tolist())
            for rows in torch.arange(len(test)).split(32)
        ]
        pixels = torch.cat([loaded.decode(part.x).clamp(-1, 1) for part in parts])
        missing[name] = _missing(pixels, test)
        curves[name] = torch.cat([SemanticGuidanceTuning.curves(part.state) for part in parts])
        nfe[name] = torch.cat([part.nfe for part in parts]).double().mean().item()
    rate = {name: m.double().mean(1).numpy() for name, m in missing.items()}
    below = _within(curves["CFG"][..., :-1].mean(1), missing["CFG"])
    rows_: list[Mapping[str, Cell]] = [
        {"guidance": name, "missing objects": statistics.mean(rate[name])} for name in arms
    ]
    return Table(
        rows_,
        {
            "missing objects / CFG": statistics.ratio(rate["SemanticGuidanceTuning"], rate["CFG"]),
            "AUC of similarity": statistics.mean(below),
            "prompts with both kinds of objects": float(len(below)),
            "evaluations / CFG": nfe["SemanticGuidanceTuning"] / (2 * STEPS),
            "threshold": tuning.threshold,
        },
    )
