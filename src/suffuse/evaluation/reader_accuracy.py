"""Whether pictures show what their captions say, as the reader reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from suffuse.core.metric import Estimate, Metric
from suffuse.core.registry import method
from suffuse.world.captions import Caption, parse
from suffuse.zoo.judge import judge

from . import statistics
from .features import load_reader
from .pictures import Pictures

Tally = Mapping[str, tuple[int, int]]
"""Question -> (pictures that are right, pictures whose caption asks it)."""

QUESTIONS = ("objects", "two objects", "binding", "relation", "count", "whole prompt")


@method(tags=("metric",))
@dataclass(frozen=True)
class ReaderAccuracy(Metric):
    """Share of pictures that the reader finds right, with Wilson's interval, for each question that captions ask.

    objects: every object mentioned is there, in shape and colour at once. two objects: the same, among captions of
    two. binding: the same, among captions of several unlike objects all of whose shapes and colours are there on
    whatever object, so that only their pairing can be wrong. relation: the objects are there and placed as said. count:
    neither more nor fewer. whole prompt: everything, texture, size and background included.

    Args:
        folder: of a saved reader; None is the bundled one.
    """

    folder: str | None = None

    def init(self) -> Tally:
        return dict.fromkeys(QUESTIONS, (0, 0))

    def measure(self, batch: Pictures) -> Tally:
        captions = [c if isinstance(c, Caption) else parse(c) for c in batch.said("the reader's accuracy")]
        reader, _ = load_reader(self.folder)
        with torch.no_grad():
            found = judge(reader.read(batch.images), captions)
        two = torch.tensor([c.count == 2 for c in captions])
        unlike = torch.tensor([_unlike(c) for c in captions])
        bound = unlike & found.shape.right & found.colour.right
        return {
            "objects": _tally(found.objects.right, found.objects.asked),
            "two objects": _tally(found.objects.right, two),
            "binding": _tally(found.objects.right, bound),
            "relation": found.relation.tally,
            "count": found.count.tally,
            "whole prompt": found.whole.tally,
        }

    def merge(self, first: Tally, second: Tally) -> Tally:
        return {q: (first[q][0] + second[q][0], first[q][1] + second[q][1]) for q in QUESTIONS}

    def result(self, state: Tally) -> Mapping[str, Estimate]:
        protocol = f"read by {load_reader(self.folder)[1]}, captions that ask; Wilson interval"
        return {
            question: statistics.proportion(np.arange(asked) < right).under(protocol)
            for question, (right, asked) in state.items()
            if asked
        }


def _unlike(caption: Caption) -> bool:
    """Whether shapes and colours of its objects could be paired wrongly."""
    return len({p.shape for p in caption.phrases}) > 1 and len({p.colour for p in caption.phrases}) > 1


def _tally(right: Tensor, asked: Tensor) -> tuple[int, int]:
    return int((right & asked).sum()), int(asked.sum())
