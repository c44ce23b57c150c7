from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.evaluation import FrechetDistance, Pictures, ReaderAccuracy, ReaderFeatures, Reference
from suffuse.evaluation.reader_accuracy import QUESTIONS
from suffuse.world import batch, parse, render, scenes_from_caption


@pytest.fixture(scope="module")
def shown():
    views, captions = batch("validation", 0, 48)
    return Pictures(views.rgb, captions)


def test_rendered_pictures_agree_with_their_own_captions_and_not_with_others(shown):
    metric = ReaderAccuracy()
    right = metric.result(metric.measure(shown))
    wrong = metric.result(metric.measure(Pictures(shown.images, [*shown.captions[1:], shown.captions[0]])))
    assert set(right) == set(QUESTIONS)
    for question, estimate in right.items():
        assert estimate.mean > 0.9, question
        assert estimate.n <= 48 and "Wilson" in estimate.protocol and "read by" in estimate.protocol
    assert wrong["objects"].interval[1] < 0.5 and wrong["whole prompt"].interval[1] < 0.5


def test_two_states_merge_to_that_of_one_pass(shown):
    metric = ReaderAccuracy()
    states = [metric.measure(part) for part in shown.batches(13)]
    merged = metric.init()
    for state in states:
        merged = metric.merge(merged, state)
    assert merged == metric.measure(shown)


def test_exchanged_colours_are_a_fault_of_binding_and_not_of_their_presence():
    said, drawn = parse("a red circle left of a blue square"), parse("a blue circle left of a red square")
    images = render(scenes_from_caption([drawn, said], seed=0)).rgb
    metric = ReaderAccuracy()
    tally = metric.measure(Pictures(images, [said, str(said)]))
    assert tally["binding"] == tally["two objects"] == tally["objects"] == (1, 2)
    assert tally["count"] == (2, 2)
    one = metric.measure(Pictures(images[:1], [parse("a red circle")]))
    assert one["binding"] == (0, 0) and one["two objects"] == (0, 0)
    assert "binding" not in metric.result(one)


def test_captions_are_needed(shown):
    with pytest.raises(BadInput, match="captions: none"):
        ReaderAccuracy().measure(Pictures(shown.images))


def test_reader_features_tell_rendered_pictures_from_noise(shown):
    features = ReaderFeatures()
    reference = Reference.of(features, shown.images[:24])
    metric = FrechetDistance(features, reference)
    near, far = (metric.result(metric.measure(Pictures(x)))["Frechet distance"].mean
                 for x in (shown.images[24:], torch.rand(24, 3, 64, 64) * 2 - 1))  # fmt: skip
    assert far > 3 * near and "at 64x64" in features.name
