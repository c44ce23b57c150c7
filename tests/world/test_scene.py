from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.core.errors import BadInput
from suffuse.world import COLOURS, HELD_OUT, SHAPES, WorldConfig, holds, parse, sample_scenes, scenes_from_caption
from suffuse.world.layout import MARGIN, RELATIONS, slack
from suffuse.world.scene import RADII


def pairs(scenes):
    used = scenes.present.nonzero().tolist()
    return {(row, COLOURS[scenes.colour[row, k]], SHAPES[scenes.shape[row, k]]) for row, k in used}


def test_the_same_seed_gives_the_same_scenes():
    one, other, third = sample_scenes(50, 4), sample_scenes(50, 4), sample_scenes(50, 5)
    assert torch.equal(one.x, other.x) and torch.equal(one.shape, other.shape)
    assert not torch.equal(one.x, third.x)


def test_held_out_combinations():
    def shown(held_out):
        scenes = sample_scenes(3000, 0, WorldConfig(held_out=held_out))
        return {row for row, *pair in pairs(scenes) if tuple(pair) in HELD_OUT}

    assert not shown("never")
    assert len(shown("always")) == 3000
    assert 0 < len(shown("free")) < 300


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from((0.7, 1.0, 1.02)))
def test_objects_stay_inside_and_apart(seed, spacing):
    scenes = sample_scenes(100, seed, WorldConfig(spacing=spacing))
    for centre in (scenes.x, scenes.y):
        assert ((centre - scenes.radius >= MARGIN - 1e-6) & (centre + scenes.radius <= 1 - MARGIN + 1e-6)).all()
    two = scenes.count == 2
    distance = torch.hypot(scenes.x[two, 0] - scenes.x[two, 1], scenes.y[two, 0] - scenes.y[two, 1])
    assert (distance >= spacing * scenes.radius[two, :2].sum(1) - 1e-6).all()


@pytest.mark.parametrize("text", [None, "three large blue stars"])
def test_three_objects_stay_apart(text):
    scenes = (
        scenes_from_caption([parse(text)] * 60, 0) if text else sample_scenes(500, 0, WorldConfig(objects=(0, 0, 1)))
    )
    i, j = torch.tensor([[0, 0, 1], [1, 2, 2]])
    distance = torch.hypot(scenes.x[:, i] - scenes.x[:, j], scenes.y[:, i] - scenes.y[:, j])
    apart = (distance >= scenes.radius[:, i] + scenes.radius[:, j]).all(1)
    assert apart.float().mean() >= 0.95


def test_sizes_are_apart():
    scenes = sample_scenes(500, 0)
    for size, (low, high) in enumerate(RADII):
        radius = scenes.radius[scenes.size == size]
        assert low <= radius.min() and radius.max() <= high


def test_weights_are_kept():
    scenes = sample_scenes(4000, 0, WorldConfig(objects=(1, 0, 3), graded=0.25))
    share = torch.bincount(scenes.count, minlength=4) / 4000
    assert torch.allclose(share, torch.tensor([0, 0.25, 0, 0.75]), atol=0.03)
    assert abs(float((scenes.gradient > 0).float().mean()) - 0.25) < 0.03


@given(st.sampled_from(RELATIONS), st.floats(-1, 1), st.floats(-1, 1))
def test_opposite_relations_exclude_and_mirror_each_other(relation, dx, dy):
    opposite = RELATIONS[RELATIONS.index(relation) ^ 1]
    assert not (holds(relation, dx, dy) and holds(opposite, dx, dy))
    assert slack(relation, dx, dy) == slack(opposite, -dx, -dy)


@pytest.mark.parametrize("bad", [{"objects": ()}, {"objects": (0.0,)}, {"held_out": "maybe"}, {"large": 1.5}])
def test_bad_configurations_are_refused(bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        WorldConfig(**bad)
