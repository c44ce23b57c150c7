"""Edit histories: undo, logs, sliders and grids of concepts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import suffuse
from suffuse.core.errors import BadInput, Damaged
from suffuse.guidance import (
    CFG,
    SEGA,
    Concept,
    EditHistory,
    StableArtist,
    probe_concept,
    replay_edits,
    strength_slider,
)
from suffuse.testing import pipelines

STRIPED, BLUE = Concept("photo", start=0.0), Concept("blue", remove=True, start=0.0)
START = EditHistory("a red circle", steps=3, guidance=CFG(3.0), steering=StableArtist((), w=3.0))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd1")
    pipelines.PIPELINES["sd1"]().save_pretrained(folder)
    return suffuse.load(folder)


def pixels(images):
    return [np.asarray(image) for image in images]


def test_edits_are_done_undone_and_done_again():
    history = START.add(STRIPED).add(BLUE)
    assert history.concepts == (STRIPED, BLUE)
    assert history.undo().concepts == (STRIPED,) and history.undo().undo().concepts == ()
    assert history.undo().redo() == history
    assert history.drop(0).concepts == (BLUE,)
    weaker = replace(STRIPED, weight=0.5)
    assert history.change(0, weaker).concepts == (weaker, BLUE)
    assert history.undo().drop(0).states == ((STRIPED,), ())  # another edit forgets what was undone
    assert history.drop(0).undo() == replace(history.drop(0), undone=1)


def test_mistakes_are_named():
    with pytest.raises(BadInput, match="no edit is left"):
        START.undo()
    with pytest.raises(BadInput, match="no edit is undone"):
        START.add(STRIPED).redo()
    with pytest.raises(BadInput, match="k=1: there are 1"):
        START.add(STRIPED).drop(1)
    with pytest.raises(BadInput, match="rise"):
        strength_slider(None, START, (0.5, 0.5))


def test_a_log_replays(tmp_path, model):
    history = START.add(STRIPED).add(BLUE).undo()
    path = history.save(tmp_path / "edits.txt")
    assert EditHistory.load(path) == history
    first, again = (pixels(replay_edits(model, h)) for h in (history, EditHistory.load(path)))
    assert len(first) == 2 and all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    plain = model.generate(START.prompt, steps=3, guidance=CFG(3.0), sampler=START.sampler).images
    assert np.array_equal(first[0], pixels(plain)[0]) and not np.array_equal(first[0], first[1])
    path.write_text("CFG(3)")
    with pytest.raises(Damaged, match="not a log"):
        EditHistory.load(path)
    with pytest.raises(BadInput, match="no file"):
        EditHistory.load(tmp_path / "none.txt")


def test_a_slider_is_monotone_and_ends_where_the_edits_are(model):
    history = replace(START, steering=SEGA((), momentum=0.0)).add(STRIPED)
    slider = strength_slider(model, history, (0.2, 0.6, 1.0))
    assert slider.levels[0] == slider.distances[0] == 0.0
    assert list(slider.distances) == sorted(set(slider.distances)) and len(slider.images) == len(slider.levels) > 1
    if slider.levels[-1] == 1.0:
        assert np.array_equal(pixels(slider.images)[-1], pixels(replay_edits(model, history))[-1])


def test_a_grid_has_both_signs(model):
    prompts = ["a circle", "a square"]
    how = {"steering": START.steering, "guidance": START.guidance, "steps": 3}
    grid = probe_concept(model, STRIPED, prompts, (-1.0, 0.0, 1.0), **how)
    assert list(grid) == [-1.0, 0.0, 1.0] and all(len(row) == 2 for row in grid.values())
    plain = model.generate(prompts, steps=3, guidance=CFG(3.0), sampler=START.sampler).images
    assert all(np.array_equal(a, b) for a, b in zip(pixels(grid[0.0]), pixels(plain), strict=True))
    away = StableArtist((replace(STRIPED, remove=True),), w=3.0) | CFG(3.0)
    one = model.generate(prompts[1], steps=3, guidance=away, sampler=START.sampler, samples=[1]).images
    assert np.abs(pixels(grid[-1.0])[1].astype(int) - pixels(one)[0]).max() <= 1
    assert not np.array_equal(pixels(grid[-1.0])[0], pixels(grid[1.0])[0])
