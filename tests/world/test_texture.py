from __future__ import annotations

from itertools import combinations

import pytest
import torch

from suffuse.world import SHAPES, WorldConfig, render, sample_scenes
from suffuse.world.distance import DISTANCES
from suffuse.world.texture import DOT, DOTS


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
def test_dots_lie_inside_and_apart(shape):
    x, y = torch.tensor(DOTS[shape]).T
    assert DISTANCES[shape](x, y).max() < -DOT - 0.03
    for (x0, y0), (x1, y1) in combinations(DOTS[shape], 2):
        assert (x0 - x1) ** 2 + (y0 - y1) ** 2 > (2 * DOT + 0.03) ** 2


def test_textures_lighten_a_good_part_of_an_object_and_leave_its_outline():
    scenes = sample_scenes(200, 0, WorldConfig(objects=(1,), textured=1, graded=0))
    textured = render(scenes, maps=("masks", "edges"))
    scenes.texture.zero_()
    plain = render(scenes)
    change = (textured.rgb - plain.rgb).mean(1)
    inside = textured.masks[:, 0]
    assert change.min() > -1e-6
    lightened = ((change > 0.1) * inside).sum((1, 2)) / inside.sum((1, 2))
    assert lightened.min() > 0.1 and lightened.max() < 0.66
    assert change[inside < 0.5].max() == 0
