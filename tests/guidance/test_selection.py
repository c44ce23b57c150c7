"""Selection among candidates: order, early stop, cache, and the curve over N."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import pytest
import torch

import suffuse
from suffuse.core.errors import BadInput
from suffuse.guidance import Combined, RewardSelect, TIFASelect, select
from suffuse.guidance.questions import VQA, ReaderVQA, Scorer, Scores, write_questions
from suffuse.guidance.selection import best_of
from suffuse.world import frozen, render

RUN = dict(steps=2, guidance=1.0)


@dataclass(frozen=True)
class Redness(Scorer):
    """The mean of the first channel, and how often it was asked."""

    asked: list[int] = field(default_factory=list, compare=False, repr=False)

    def __call__(self, pixels, prompt):
        self.asked.append(len(pixels))
        return Scores(pixels[:, 0].double().mean((1, 2)), [()] * len(pixels))


def test_candidates_are_ranked_and_can_be_made_again():
    model, cache, scorer = suffuse.load("digits"), {}, Redness()
    found = select(model, "3", scorer=scorer, n=5, batch=2, cache=cache, **RUN)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True) and len(found.images) == 5
    assert scorer.asked == [2, 2, 1] and found.nfe == 10
    again = model.generate("3", samples=found.samples[:1], **RUN)
    assert (torch.as_tensor(again.latents) - found.pixels[:1].mean(1, keepdim=True)).abs().max() < 1.0
    select(model, "3", scorer=scorer, n=5, batch=2, cache=cache, **RUN)
    assert scorer.asked == [2, 2, 1]  # pictures that were scored are not scored again


def test_it_stops_when_one_is_good_enough():
    found = select(suffuse.load("digits"), "3", scorer=Redness(), n=6, batch=2, enough=-1.0, **RUN)
    assert len(found.images) == 2 and found.nfe == 4


def test_questions():
    asked = [q.about for q in write_questions("two red circles above a large blue star on a white background.")]
    assert asked == [
        "two red circles", "a star", "a large blue star", "a background", "a white background",
        "two red circles above a large blue star on a white background",
    ]  # fmt: skip
    assert write_questions("two rings")[0].text == "Are there two rings?"


def test_the_reader_answers_yes_on_true_pictures_and_no_on_others():
    scenes, captions = frozen("validation")
    pixels = render(scenes[:24]).rgb
    right = [TIFASelect()(pixels[[k]], str(captions[k])).values.item() for k in range(24)]
    wrong = [TIFASelect()(pixels[[k]], str(captions[k - 1])).values.item() for k in range(24)]
    assert sum(r == 1.0 for r in right) >= 22 and sum(w == 1.0 for w in wrong) <= 2
    with pytest.raises(BadInput, match="unicorn"):
        ReaderVQA()(pixels[:1], write_questions("a pink unicorn")[1])


def test_scorers_combine():
    class Yes(VQA):
        def __call__(self, pixels, question):
            return ["yes"] * len(pixels)

    reward = RewardSelect(lambda pixels, prompts: pixels.mean((1, 2, 3)))
    both = Combined((TIFASelect(Yes()), reward), (1.0, 0.5))
    found = both(torch.full((2, 3, 4, 4), 0.5), "a red circle")
    assert found.values.tolist() == [1.25, 1.25] and found.answers == [("yes", "yes")] * 2
    with pytest.raises(BadInput, match="one for each of 2"):
        Combined((reward, reward), (1.0,))


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_the_best_of_n_is_the_mean_over_all_subsets(n):
    torch.manual_seed(0)
    chosen, judged = torch.rand(3, 5), torch.rand(3, 5)
    subsets = [list(c) for c in combinations(range(5), n)]
    mean = sum(judged[:, c].gather(1, chosen[:, c].argmax(1, keepdim=True))[:, 0] for c in subsets) / len(subsets)
    torch.testing.assert_close(best_of(chosen, judged, n), mean.double(), atol=1e-6, rtol=1e-6)
