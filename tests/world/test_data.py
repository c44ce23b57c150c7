from __future__ import annotations

from itertools import islice

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.world import COLOURS, HELD_OUT, SHAPES, Stream, WorldConfig, batch, frozen
from suffuse.world.data import digest

FROZEN = {
    "validation": "8a774d9bebc6331209a15fce4811335a532e66e38919737dd6e1af017b0882e6",
    "held-out": "809c1fea042c74c9d4a467fb0d29fbf54fba2c312e5741431977cb2dd31bbd03",
}


@pytest.mark.parametrize("split", FROZEN)
def test_frozen_splits_stay_what_they_are(split):
    assert digest(*frozen(split)) == FROZEN[split]


def test_frozen_splits_hold_what_they_promise():
    for split, size, shown in (("validation", 512, 0), ("held-out", 128, 128)):
        _, captions = frozen(split)
        pairs = [{(phrase.colour, phrase.shape) for phrase in caption.phrases} for caption in captions]
        assert len(captions) == size
        assert sum(bool(pair & set(HELD_OUT)) for pair in pairs) == shown


def test_batches_of_a_frozen_split_join_to_the_whole():
    scenes, captions = frozen("held-out")
    views = [batch("held-out", index, 48, resolution=16) for index in range(3)]
    assert [caption for _, part in views for caption in part] == list(captions)
    assert torch.equal(torch.cat([part.scenes.x for part, _ in views]), scenes.x)
    with pytest.raises(BadInput, match="3 batches of 48"):
        batch("held-out", 3, 48)


def test_training_batches_are_repeatable_and_differ():
    one, other, third = (batch("train", index, 4, resolution=16) for index in (7, 7, 8))
    assert torch.equal(one[0].rgb, other[0].rgb) and one[1] == other[1]
    assert not torch.equal(one[0].rgb, third[0].rgb)
    assert not torch.equal(one[0].rgb, batch("train", 7, 4, resolution=16, seed=1)[0].rgb)


def test_a_stream_resumes_where_it_stopped():
    config = WorldConfig(objects=(1.0,))
    stream = Stream(size=3, seed=2, resolution=16, maps=("masks",), config=config)
    whole = list(islice(stream, 4))
    rest = list(islice(Stream(size=3, seed=2, start=2, resolution=16, maps=("masks",), config=config), 2))
    for (views, captions), (again, same) in zip(whole[2:], rest, strict=True):
        assert torch.equal(views.rgb, again.rgb) and torch.equal(views.masks, again.masks) and captions == same


def test_training_never_shows_held_out_combinations():
    for index in range(5):
        scenes = batch("train", index, 200, resolution=16)[0].scenes
        for colour, shape in HELD_OUT:
            hit = (scenes.colour == COLOURS.index(colour)) & (scenes.shape == SHAPES.index(shape)) & scenes.present
            assert not hit.any()


def test_an_unknown_split_is_refused():
    with pytest.raises(BadInput, match="validation"):
        batch("valid", 0, 4)
