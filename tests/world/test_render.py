from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.world import SHAPES, WorldConfig, render, sample_scenes
from suffuse.world.distance import DISTANCES, EXTENTS
from suffuse.world.render import GROUNDS, MAPS, PALETTE

SCENES = sample_scenes(24, 11, WorldConfig(spacing=0.6))


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
def test_distances_fill_their_extents_and_have_unit_slope(shape):
    axis = torch.linspace(-1.3, 1.3, 521, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    distance = DISTANCES[shape](x, y)
    inside = distance < 0
    wide, high = EXTENTS[shape]
    for values, half in ((x[inside], wide), (y[inside], high)):
        assert values.max() == pytest.approx(half, abs=0.012)
        assert values.min() == pytest.approx(-half, abs=0.012)
    step = axis[1] - axis[0]
    across, down = torch.gradient(distance, spacing=float(step))
    assert max(across.abs().max(), down.abs().max()) < 1 + 1e-6
    slope = torch.hypot(across, down)
    assert slope[(distance.abs() < 0.05)].median() == pytest.approx(1, abs=0.01)


def test_pictures_are_well_formed_and_repeatable():
    views = render(SCENES, maps=MAPS)
    assert views.rgb.shape == (24, 3, 64, 64) and views.rgb.abs().max() <= 1
    assert views.masks.shape == (24, 3, 64, 64) and views.depth.shape == views.edges.shape == (24, 1, 64, 64)
    assert torch.allclose(views.normal.norm(dim=1), torch.ones(24, 64, 64), atol=1e-5)
    assert torch.equal(views.rgb, render(SCENES).rgb)
    assert render(SCENES).masks is None


def test_a_picture_does_not_depend_on_its_neighbours():
    views = render(SCENES, maps=("masks",))
    alone = render(SCENES[5:6], maps=("masks",))
    assert torch.allclose(views.rgb[5:6], alone.rgb, atol=1e-5)
    assert torch.allclose(views.masks[5:6], alone.masks, atol=1e-5)


def test_masks_share_the_picture_and_nearer_objects_hide_farther_ones():
    masks = render(SCENES, maps=("masks",)).masks
    assert masks.min() >= 0 and masks.sum(1).max() <= 1 + 1e-5
    assert masks[~SCENES.present].max() == 0
    scenes = SCENES[SCENES.count == 2]
    scenes = replace(scenes, x=torch.full_like(scenes.x, 0.5), y=torch.full_like(scenes.y, 0.5))
    both = render(scenes, maps=("masks",)).masks
    for row in range(len(scenes)):
        near = int(scenes.order[row, :2].argmax())
        others = torch.arange(3) == near
        alone = render(replace(scenes[row : row + 1], present=others[None]), maps=("masks",)).masks
        assert torch.allclose(both[row, near], alone[0, near], atol=1e-5)


@pytest.mark.parametrize("resolution", [48, 64, 128])
def test_boxes_hold_the_masks(resolution):
    scenes = sample_scenes(40, 2)
    views = render(scenes, resolution, ("masks",))
    for row, slot in scenes.present.nonzero().tolist():
        lines, columns = (views.masks[row, slot] > 0.5).nonzero(as_tuple=True)
        found = torch.stack([columns.min(), lines.min(), columns.max() + 1, lines.max() + 1])
        assert (found - views.boxes[row, slot]).abs().max() < 1.6


def test_colours_are_unmistakable():
    scenes = sample_scenes(200, 0, WorldConfig(objects=(1,), textured=0, graded=0))
    views = render(scenes, maps=("masks",))
    shown = ((views.rgb + 1) / 2 * views.masks).sum((2, 3)) / views.masks.sum((2, 3))
    nearest = torch.cdist(shown, torch.tensor(PALETTE)).argmin(1)
    assert torch.equal(nearest, scenes.colour[:, 0])
    corner = (views.rgb[:, :, 0, 0] + 1) / 2
    assert torch.equal(torch.cdist(corner, torch.tensor(GROUNDS)).argmin(1), scenes.background)


def test_maps_agree_with_each_other():
    scenes = sample_scenes(30, 5)
    views = render(scenes, maps=MAPS)
    bare = views.masks.sum(1) == 0
    assert (views.depth[:, 0][bare] == 1).all()
    assert (views.normal[:, 2][bare] == 1).all()
    solid = views.masks.amax(1) > 0.99
    assert (views.depth[:, 0][solid] < 1).all()
    assert (views.edges[:, 0][bare] < 0.76).all()
    flat = render(replace(scenes, present=torch.zeros_like(scenes.present)), maps=MAPS)
    assert flat.edges.max() == 0 and flat.masks.max() == 0


def test_higher_resolution_shows_the_same():
    small = render(SCENES, 64).rgb
    large = torch.nn.functional.avg_pool2d(render(SCENES, 256).rgb, 4)
    assert (small - large).abs().mean() < 0.02


def test_bad_arguments_are_refused():
    with pytest.raises(BadInput, match="resolution=8"):
        render(SCENES, 8)
    with pytest.raises(BadInput, match="depth"):
        render(SCENES, maps=("depht",))
