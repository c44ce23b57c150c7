"""EditBench and PIE-Bench, and the figures of edits."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from suffuse.core.errors import BadInput, Damaged
from suffuse.editing import EditBench, PIEBench, TEdBench
from suffuse.editing.edit_case import EditCase
from suffuse.editing.pie_bench import decode_mask
from suffuse.editing.scores import accuracy, scores
from suffuse.evaluation.scores import Scored
from suffuse.world import HELD_OUT, parse

BENCH = EditBench(18, kinds=("colour", "shape", "texture"))


def pictures(cases, which):
    return torch.stack([getattr(c, which) for c in cases])


def test_only_the_asked_for_attribute_changes():
    for case in BENCH:
        before, after = parse(case.source), parse(case.target)
        first, second = before.phrases[0], after.phrases[0]
        changed = [k for k in ("shape", "colour", "texture") if getattr(first, k) != getattr(second, k)]
        assert changed == [case.kind] and before.phrases[1:] == after.phrases[1:]
        assert case.words == (getattr(first, case.kind), getattr(second, case.kind))
        assert parse(case.wanted).phrases == (second,)
        assert all((p.colour, p.shape) not in HELD_OUT for p in (first, second))


def test_pictures_are_equal_outside_of_the_region_and_differ_inside():
    gap = (pictures(BENCH, "image") - pictures(BENCH, "truth")).abs().amax(1)
    mask = pictures(BENCH, "mask")
    assert float(gap[~mask].max()) <= 1 / 255
    assert bool((torch.where(mask, gap, 0.0).amax((1, 2)) > 0.1).all())
    assert bool((mask.float().mean((1, 2)) < 0.5).all())


def test_the_reader_finds_the_attribute_in_the_true_result_alone():
    assert accuracy(BENCH[:], pictures(BENCH, "truth")).mean == 1.0
    assert accuracy(BENCH[:], pictures(BENCH, "image")).mean == 0.0


def test_a_seed_means_the_same_cases():
    again, other = EditBench(4, seed=1), EditBench(4, seed=2)
    assert torch.equal(EditBench(4, seed=1)[3].image, again[3].image)
    assert not torch.equal(other[3].image, again[3].image)
    assert {c.kind for c in EditBench(4)} == {"colour", "shape"}


def test_an_unknown_kind_is_named():
    with pytest.raises(BadInput, match="did you mean colour"):
        EditBench(kinds=("color",))


def test_scores_of_the_truth_and_of_noise():
    cases = BENCH[:6]
    truth = scores(cases, pictures(cases, "truth"))
    noise = scores(cases, (pictures(cases, "image") + 0.3 * torch.randn(6, 3, 64, 64)).clamp(-1, 1))
    assert truth["PSNR outside"].mean > 60 > 30 > noise["PSNR outside"].mean
    assert truth["structure distance"].mean < noise["structure distance"].mean


@dataclass(frozen=True)
class Brightness(Scored):
    """Stands for a text similarity."""

    name = "similarity"
    protocol = "mean of the picture"

    def score(self, pictures):
        assert list(pictures.said("it"))
        return pictures.unit.mean((1, 2, 3))


def test_regions_of_nothing_and_of_everything_are_left_out():
    white = torch.ones(3, 16, 16)
    half = torch.zeros(16, 16, dtype=torch.bool)
    half[:8] = True
    cases = [
        EditCase(str(k), "any", white, "a", "b", mask)
        for k, mask in enumerate((torch.ones_like(half), torch.zeros_like(half), half))
    ]
    from suffuse.evaluation import MSE

    report = scores(cases, torch.stack([white] * 3), kept=[MSE("outside")], text=[Brightness()])
    assert report["MSE outside"].n == 2 and report["similarity"].n == 3 and report["similarity inside"].n == 2
    assert report["similarity"].mean == 1.0 and report["similarity inside"].mean == 0.75
    with pytest.raises(BadInput, match="2 for 3 cases"):
        scores(cases, torch.stack([white] * 2))


def test_runs_of_a_mask_and_its_border():
    mask = decode_mask([10, 3, 254, 100], side=16)
    inner = mask[1:-1, 1:-1].clone()
    assert bool(mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all())
    expected = torch.zeros(16, 16, dtype=torch.bool).flatten()
    expected[10:13] = True
    expected[254:] = True
    assert torch.equal(inner, expected.reshape(16, 16)[1:-1, 1:-1])
    assert decode_mask([17, 2], side=16)[1].tolist() == [True, True, True, *[False] * 12, True]
    with pytest.raises(Damaged, match="3 numbers"):
        decode_mask([1, 2, 3])


@pytest.fixture
def folder(tmp_path):
    entry = {
        "image_path": "0_random/a.jpg", "original_prompt": "a [red] circle", "editing_prompt": "a [blue] circle",
        "editing_type_id": "6", "blended_word": "circle circle", "mask": [0, 1024],
    }  # fmt: skip
    path = tmp_path / "annotation_images" / "0_random"
    path.mkdir(parents=True)
    Image.fromarray(np.full((512, 512, 3), 255, np.uint8)).save(path / "a.jpg")
    table = {"000": entry, "001": {**entry, "editing_type_id": "9", "blended_word": ""}}
    (tmp_path / "mapping_file.json").write_text(json.dumps(table))
    return tmp_path


def test_pie_bench_is_read(folder):
    cases = PIEBench(str(folder))
    assert len(cases) == 2 and [c.kind for c in cases] == ["change colour", "change style"]
    case = cases[0]
    assert (case.source, case.target, case.words) == ("a red circle", "a blue circle", ("circle", "circle"))
    assert case.image.shape == (3, 512, 512) and float(case.image.min()) > 0.99
    assert bool(case.mask[:2].all()) and not bool(case.mask[2:-1, 1:-1].any())
    assert cases[1].words == () and len(PIEBench(str(folder), ("change style",))) == 1


def test_a_damaged_pie_bench_is_named(folder):
    table = json.loads((folder / "mapping_file.json").read_text())
    del table["000"]["mask"]
    (folder / "mapping_file.json").write_text(json.dumps(table))
    with pytest.raises(Damaged, match="entry '000': KeyError"):
        PIEBench(str(folder))[0]
    table["000"]["editing_type_id"] = "77"
    (folder / "mapping_file.json").write_text(json.dumps(table))
    with pytest.raises(Damaged, match="not PIE-Bench's"):
        len(PIEBench(str(folder)))
    with pytest.raises(Damaged, match=r"mapping_file\.json is missing"):
        len(PIEBench(str(folder / "nowhere")))
    with pytest.raises(BadInput, match="PIE-Bench has random"):
        PIEBench(str(folder), ("colour",))


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "originals").mkdir()
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 30:50] = 255
    Image.fromarray(wide).save(tmp_path / "originals" / "bird.png")
    listed = [{"img_name": "bird.png", "target_text": t} for t in ("A photo of a bird spreading wings.", "A fish.")]
    (tmp_path / "input_list.json").write_text(json.dumps(listed))
    return tmp_path


def test_tedbench_is_read(pairs):
    cases = TEdBench(str(pairs), side=20)
    assert [c.target for c in cases] == ["A photo of a bird spreading wings.", "A fish."] and len(cases[:1]) == 1
    assert cases[0].image.shape == (3, 20, 20) and cases[0].mask.all() and cases[0].source == ""
    assert cases[0].image[:, 10, 10].min() > 0.99 and cases[0].image[:, 10, 0].max() < -0.99  # the middle square
    (pairs / "input_list.json").write_text("[1]")
    with pytest.raises(Damaged, match="input_list"):
        len(TEdBench(str(pairs)))


def test_cases_of_another_size(folder):
    case = PIEBench(str(folder))[0]
    small = case.resized((64, 64))
    assert small.image.shape == (3, 64, 64) and small.mask.shape == (64, 64) and case.resized((512, 512)) is case
    assert not small.mask[1:, 1:].any() and (small.source, small.words) == (case.source, case.words)
