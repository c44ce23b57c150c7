"""DragBench: its files, and the distance of what was dragged."""

from __future__ import annotations

import json

import pytest
import torch

from suffuse.core.errors import Damaged
from suffuse.editing import DragBench
from suffuse.editing.drag_bench import mean_distance
from suffuse.images import save_png, to_pil

from .test_task import model, picture


def written(tmp_path, points=((20, 30), (40, 30), (8, 8), (8, 16))):
    sample = tmp_path / "animals" / "one"
    sample.mkdir(parents=True)
    save_png(to_pil(picture()[None])[0], sample / "original_image.png")
    save_png(to_pil(torch.ones(1, 3, 64, 64))[0].convert("L"), sample / "mask.png")
    (sample / "meta_data.json").write_text(json.dumps({"prompt": "a dog", "points": points}))
    return DragBench(str(tmp_path))


def test_a_case_is_read(tmp_path):
    bench = written(tmp_path)
    (case,) = bench[:]
    assert (len(bench), case.name, case.prompt) == (1, "animals/one", "a dog")
    assert case.points.tolist() == [[20, 30, 40, 30], [8, 8, 8, 16]]
    assert case.image.shape == (3, 64, 64) and case.mask.shape == (1, 64, 64) and case.mask.min() == 1


def test_what_is_missing_or_odd(tmp_path):
    with pytest.raises(Damaged, match="no category/sample"):
        len(DragBench(str(tmp_path)))
    with pytest.raises(Damaged, match="points in pairs"):
        written(tmp_path, points=((1, 2, 3),))[0]


def test_what_was_not_dragged_is_as_far_as_before():
    """The handle is found where it was, up to the grid of the features."""
    points = torch.tensor([[20.5, 30.5, 40.5, 30.5], [12.5, 12.5, 12.5, 12.5]])
    found = mean_distance(model(), picture(), picture(), "a dog", points, noises=2)
    assert torch.allclose(found, torch.tensor([20.0, 0.0]), atol=1.0)
