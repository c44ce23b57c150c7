"""Noun phrases of captions and of plain English."""

from __future__ import annotations

import pytest

from suffuse.conditioning.phrases import noun_phrases
from suffuse.world import frozen


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a red circle left of a blue square", ("a red circle", "a blue square")),
        ("two stars and a large ring, on a white ground", ("two stars", "a large ring", "a white ground")),
        ("A bowl of red apples", ("A bowl", "red apples", "A bowl of red apples")),
        ("a man riding a brown horse", ("a man", "a brown horse")),
        ("a cat and a cat", ("a cat",)),
        ("", ()),
    ],
)
def test_what_is_found(prompt, phrases):
    assert noun_phrases(prompt) == phrases


def test_captions_of_the_world_have_a_phrase_for_each_of_theirs():
    for caption in frozen("validation")[1]:
        found = noun_phrases(str(caption))
        assert len(found) == len({str(p) for p in caption.phrases}) + (caption.background is not None), str(caption)
        assert all(phrase in str(caption) for phrase in found)
