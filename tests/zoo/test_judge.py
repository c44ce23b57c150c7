from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.world import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES, describe, parse, sample_scenes
from suffuse.zoo.judge import judge
from suffuse.zoo.reader import Reading


def sure(labels, names):
    return torch.nn.functional.one_hot(labels, len(names)).float()


def truth(scenes):
    """What a perfect reader would report."""
    return Reading(
        score=scenes.present.float(),
        present=scenes.present,
        shape=sure(scenes.shape, SHAPES),
        colour=sure(scenes.colour, COLOURS),
        texture=sure(scenes.texture, TEXTURES),
        size=sure(scenes.size, SIZES),
        x=scenes.x,
        y=scenes.y,
        radius=scenes.radius,
        background=sure(scenes.background, BACKGROUNDS),
        features=torch.zeros(len(scenes), 1),
    )


def picture(*objects, background="white"):
    """A reading of (size, texture, colour, shape, x, y)."""
    size, texture, colour, shape, x, y = zip(*objects, strict=True)

    def row(values, names):
        return sure(torch.tensor([[names.index(value) for value in values]]), names)

    return Reading(
        score=torch.ones(1, len(objects)),
        present=torch.ones(1, len(objects), dtype=torch.bool),
        shape=row(shape, SHAPES),
        colour=row(colour, COLOURS),
        texture=row(texture, TEXTURES),
        size=row(size, SIZES),
        x=torch.tensor([x]),
        y=torch.tensor([y]),
        radius=torch.full((1, len(objects)), 0.1),
        background=sure(torch.tensor([BACKGROUNDS.index(background)]), BACKGROUNDS),
        features=torch.zeros(1, 1),
    )


def wrong(reading, text):
    judgement = judge(reading, [parse(text)])
    return {name for name in judgement.tallies() if not getattr(judgement, name).right.item()}


def test_true_readings_are_all_right():
    scenes = sample_scenes(400, 3)
    judgement = judge(truth(scenes), describe(scenes, 3))
    for name, (right, asked) in judgement.tallies().items():
        assert right == asked > 0, name
    assert judgement.objects.score.min() == 1 and judgement.count.score.min() == 1
    assert judgement.whole.asked.all() and not judgement.relation.asked.all()


def test_captions_of_other_scenes_are_mostly_wrong():
    scenes = sample_scenes(400, 3)
    captions = describe(scenes, 3)
    right, asked = judge(truth(scenes), captions[1:] + captions[:1]).whole.tally
    assert right / asked < 0.03


RED_CIRCLE = ("small", "plain", "red", "circle", 0.25, 0.5)
BLUE_SQUARE = ("large", "striped", "blue", "square", 0.7, 0.55)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red circle left of a blue square", set()),
        ("a blue square right of a red circle", set()),
        ("a small red circle and a large striped blue square on a white background", set()),
        ("a red circle right of a blue square", {"relation", "whole"}),
        ("a red circle above a blue square", {"relation", "whole"}),
        ("a blue circle left of a red square", {"objects", "relation", "whole"}),
        ("a red circle", {"count", "whole"}),
        ("a red circle and a green square", {"colour", "objects", "whole"}),
        ("a red circle and a blue star", {"shape", "objects", "whole"}),
        ("a dotted red circle and a blue square", {"texture", "whole"}),
        ("a large red circle and a blue square", {"size", "whole"}),
        ("a red circle and a blue square on a black background", {"background", "whole"}),
        ("two red circles", {"shape", "colour", "objects", "whole"}),
        ("a red circle, a blue square and a pink ring", {"shape", "colour", "objects", "count", "whole"}),
    ],
)
def test_each_fault_is_told_apart(text, expected):
    assert wrong(picture(RED_CIRCLE, BLUE_SQUARE), text) == expected


def test_like_objects_are_matched_by_what_is_said_of_them():
    pair = picture(("large", "plain", "red", "ring", 0.2, 0.5), ("small", "dotted", "red", "ring", 0.8, 0.5))
    assert wrong(pair, "a small red ring right of a large red ring") == set()
    assert wrong(pair, "a small red ring left of a large red ring") == {"relation", "whole"}
    assert wrong(pair, "two red rings") == set()


def test_an_empty_picture_is_wrong_without_failing():
    scenes = sample_scenes(3, 0)
    captions = describe(scenes, 0)
    scenes.present.zero_()
    judgement = judge(truth(scenes), captions)
    assert not judgement.objects.right.any() and judgement.objects.score.max() == 0


def test_scores_grow_with_the_margin_of_a_relation():
    caption = parse("a red circle left of a blue square")
    scores = [
        judge(picture(RED_CIRCLE, (*BLUE_SQUARE[:4], x, 0.5)), [caption]).relation.score.item()
        for x in (0.1, 0.3, 0.4, 0.7)
    ]
    assert scores == sorted(scores) and scores[0] < 0.1 < 0.9 < scores[-1]


def test_one_caption_for_each_picture():
    with pytest.raises(BadInput, match="2 entries for 1 pictures"):
        judge(picture(RED_CIRCLE), [parse("a red circle")] * 2)
