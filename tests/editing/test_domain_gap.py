"""Translation over a domain gap: the grid, the operating point, the ranking."""

from __future__ import annotations

import pytest
import torch

from suffuse import load
from suffuse.core.errors import BadInput
from suffuse.editing import ByClassifier, ByPrompt, revive
from suffuse.editing.domain_gap import Point, Unguided, operating_point
from suffuse.networks.adm import ADMClassifier

NAMES = ("red circle", "blue square")


@pytest.fixture(scope="module")
def found():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = ADMClassifier(16, 2, 4, 8, (1,), 1, (1,), 8, groups=4).eval().requires_grad_(False)
        torch.nn.init.normal_(list(classifier.parameters())[-2], std=0.5)
    image = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
    return image, revive(
        load("shapes"),
        image,
        NAMES,
        recognise=lambda pixels, names: pixels.mean((1, 2, 3)).sigmoid(),
        retained=lambda before, after: -(before - after).square().mean((1, 2, 3)),
        ways=(ByClassifier(classifier, NAMES, (2.0,)), ByPrompt("a {}", (2.0,))),
        strengths=(0.5, 1.0),
        seeds=(0, 1),
        steps=2,
    )


def test_every_way_on_the_whole_grid(found):
    image, revived = found
    places = [(type(p.way).__name__, p.strength, p.scale) for p in revived.points]
    assert places == [
        ("Unguided", 0.5, 0.0), ("Unguided", 1.0, 0.0), ("ByClassifier", 0.5, 2.0), ("ByClassifier", 1.0, 2.0),
        ("ByPrompt", 0.5, 2.0), ("ByPrompt", 1.0, 2.0),
    ]  # fmt: skip
    assert all(p.pixels.shape == (2, *image.shape) for p in revived.points)
    assert len(revived.of(ByPrompt)) == 2 and not isinstance(revived.point.way, Unguided)
    assert len(revived.images) == 2


def test_the_ways_differ_and_less_strength_keeps_more(found):
    _, revived = found
    weak, strong = revived.of(ByPrompt)
    assert weak.retained.mean() > strong.retained.mean()
    for way in (ByClassifier, ByPrompt):
        assert not torch.equal(revived.of(way)[0].pixels, revived.of(Unguided)[0].pixels)


def test_unguided_without_scale_equals_the_classifier_at_scale_zero():
    image = torch.zeros(1, 3, 64, 64)
    classifier = ADMClassifier(16, 2, 4, 8, (1,), 1, (1,), 8, groups=4).requires_grad_(False)
    made = revive(
        load("shapes"), image, NAMES[0], recognise=lambda p, n: torch.zeros(1), strengths=(1.0,), steps=1,
        ways=(ByClassifier(classifier, NAMES, (0.0,)),),
    )  # fmt: skip
    assert torch.equal(made.points[0].pixels, made.points[1].pixels)


def point(recognised, retained):
    return Point(Unguided(), 0.5, 0.0, torch.zeros(2, 1, 3, 2, 2), torch.tensor(recognised), torch.tensor(retained))


def test_the_operating_point_is_content_with_enough():
    a, b, c = (point([[x], [x]], [[y], [y]]) for x, y in ((0.5, 0.9), (0.93, 0.6), (1.0, 0.2)))
    assert operating_point([a, b, c]) is b
    assert operating_point([a, b, c], 0.99) is c
    assert operating_point([a, b, c], 0.4) is a


def test_seeds_are_ranked_by_both_judges():
    p = point([[0.2], [0.3]], [[0.5], [0.1]])
    assert p.ranking[:, 0].tolist() == [0, 1]
    assert torch.equal(p.best, p.pixels[0])


def test_empty_grids_are_refused():
    with pytest.raises(BadInput, match="seeds: is empty"):
        revive(load("shapes"), torch.zeros(1, 3, 64, 64), "x", recognise=lambda p, n: torch.zeros(1), seeds=())
