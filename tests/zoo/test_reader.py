from __future__ import annotations

import json

import pytest
import torch

from suffuse.core.errors import BadInput, Damaged
from suffuse.world import SHAPES, batch, frozen, render
from suffuse.zoo.reader import BUNDLED, PARTS, Reader, ReaderConfig
from suffuse.zoo.recipes.reader import WORLD, Examples, build, disturb, example, reader_loss

SMALL = ReaderConfig(stem=4, width=8, dilations=(1,))


@pytest.fixture(scope="module")
def bundled():
    return Reader.load()


def test_the_bundled_reader_reads_true_pictures(bundled):
    scenes, _ = frozen("validation")
    scenes = scenes[:96]
    with torch.no_grad():
        reading = bundled.read(render(scenes).rgb)
    assert (reading.count == scenes.count).float().mean() > 0.97
    right = total = 0
    for row, slot in scenes.present.nonzero().tolist():
        objects = reading.objects(row)
        x, y = float(scenes.x[row, slot]), float(scenes.y[row, slot])
        near = min(objects, key=lambda seen: (seen.x - x) ** 2 + (seen.y - y) ** 2)
        right += near.shape == SHAPES[scenes.shape[row, slot]] and abs(near.x - x) + abs(near.y - y) < 0.05
        total += 1
    assert right / total > 0.97
    assert (reading.background.argmax(1) == scenes.background).float().mean() > 0.98


def test_a_blank_picture_shows_nothing(bundled):
    with torch.no_grad():
        reading = bundled.read(torch.full((1, 3, 64, 64), 0.94))
    assert reading.objects(0) == [] and reading.count.tolist() == [0]


def test_other_resolutions_are_read_alike(bundled):
    with torch.no_grad():
        small, large = (bundled.read(batch("validation", 0, 32, resolution=side)[0].rgb) for side in (64, 128))
    same = small.present & large.present
    assert same.sum() > 40
    assert (small.count == large.count).float().mean() > 0.95
    assert (small.background.argmax(1) == large.background.argmax(1)).all()


def test_a_reading_does_not_depend_on_its_batch_and_carries_gradients(bundled):
    rgb = batch("validation", 0, 5)[0].rgb.requires_grad_()
    whole, parts = bundled.read(rgb), bundled.read(rgb, batch=2)
    assert torch.allclose(whole.shape, parts.shape, atol=1e-4) and torch.allclose(
        whole.features, parts.features, atol=1e-4
    )
    assert whole.features.shape == (5, 128)
    whole.score.sum().backward()
    assert rgb.grad.abs().sum() > 0


def test_saving_and_loading_keep_the_reader(tmp_path):
    torch.manual_seed(0)
    reader = Reader(SMALL)
    reader.save(tmp_path)
    again = Reader.load(tmp_path)
    rgb = torch.rand(2, 3, 64, 64) * 2 - 1
    assert again.config == SMALL
    assert torch.equal(reader.read(rgb).features, again.read(rgb).features)


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(Damaged, match="config.json"):
        Reader.load(tmp_path)
    Reader(SMALL).save(tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**entries, "width": 16}))
    with pytest.raises(Damaged, match="train it anew"):
        Reader.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(Damaged):
        Reader.load(tmp_path)


def test_the_bundled_files_are_small():
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) < 1_500_000


def test_pictures_of_a_wrong_shape_are_refused():
    with pytest.raises(BadInput, match=r"\(3, 64, 64\)"):
        Reader(SMALL).read(torch.zeros(3, 64, 64))


def test_examples_are_repeatable_and_include_blank_and_held_out_pictures():
    (rgb, scenes), (again, _) = example(16, 3, 5), example(16, 3, 5)
    assert torch.equal(rgb, again) and rgb.abs().max() <= 1
    assert scenes.count.min() == 0 and WORLD.held_out == "free"
    clean = render(scenes).rgb
    change = (disturb(clean, torch.Generator().manual_seed(0)) - clean).abs().mean()
    assert 0.005 < change < 0.15


def test_the_loss_vanishes_for_the_truth_only():
    _, scenes = example(8, 0, 0)
    truth = Examples(8)(0).data["scenes"]
    side = 16
    maps = {name: torch.zeros(8, n, side, side) for name, n in PARTS.items()}
    maps["heat"] -= 20
    wrong = reader_loss(maps, torch.zeros(8, 5), truth).mean()
    axis = (torch.arange(side) + 0.5) / side
    for row, slot in scenes.present.nonzero().tolist():
        x, y = scenes.x[row, slot], scenes.y[row, slot]
        line, column = int(y * side), int(x * side)
        maps["heat"][row, 0, line, column] = 20
    near = (axis[None, :, None, None] - scenes.y[:, None, None]).square() + (
        axis[None, None, :, None] - scenes.x[:, None, None]
    ).square()
    owner = torch.where(scenes.present[:, None, None], near, torch.inf).argmin(-1)
    rows = torch.arange(8)[:, None, None]
    for name in ("shape", "colour", "texture", "size"):
        label = getattr(scenes, name)[rows, owner]
        maps[name] = 40 * torch.nn.functional.one_hot(label, maps[name].shape[1]).permute(0, 3, 1, 2).float()
    maps["place"] = side * torch.stack(
        [
            scenes.x[rows, owner] - axis[None, None, :],
            scenes.y[rows, owner] - axis[None, :, None],
            scenes.radius[rows, owner],
        ],
        1,
    )
    ground = 40 * torch.nn.functional.one_hot(scenes.background, 5).float()
    assert reader_loss(maps, ground, truth).mean() < 1e-4 < 1 < wrong


def test_training_lowers_the_loss(tmp_path):
    batch = Examples(32, seed=9)(0)

    def loss(reader):
        with torch.no_grad():
            maps, ground, _ = reader(batch.data["rgb"])
        return float(reader_loss(maps, ground, batch.data["scenes"]).mean())

    torch.manual_seed(0)
    built = build(tmp_path, steps=6, report=lambda progress: None)
    assert built.steps == 6 and loss(Reader.load(built.folder)) < 0.8 * loss(Reader().eval())
