"""EditEval in the world, and the marks of its edits."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.editing import EditEval, ReaderJudge
from suffuse.editing.edit_case import EditCase
from suffuse.editing.edit_eval import TASKS
from suffuse.editing.edit_judge import FACTORS, HIGH, LOW, Marks, blur
from suffuse.world import HELD_OUT, parse

BENCH = EditEval(2)


def pictures(which):
    return torch.stack([getattr(c, which) for c in BENCH])


def one(task):
    return next((parse(c.source), parse(c.target), c) for c in BENCH if c.kind == task)


def test_tasks_take_turns_and_a_seed_means_the_same_cases():
    assert [c.kind for c in BENCH] == 2 * list(TASKS) and BENCH[8].name == "replace 1"
    assert torch.equal(EditEval(2)[5].image, BENCH[5].image)
    assert not torch.equal(EditEval(2, seed=1)[5].image, BENCH[5].image)
    with pytest.raises(BadInput, match="did you mean remove"):
        EditEval(tasks=("remov",))


def test_pictures_are_equal_outside_of_the_region_and_differ_inside():
    gap, mask = (pictures("image") - pictures("truth")).abs().amax(1), pictures("mask")
    assert float(gap[~mask].max()) <= 1 / 255
    assert bool((torch.where(mask, gap, 0.0).amax((1, 2)) > 0.1).all()) and bool((~mask).flatten(1).any(1).all())


def test_prompts_say_what_changes_and_nothing_else():
    before, after, _ = one("add")
    assert after.phrases[:1] == before.phrases and after.count == before.count + 1 == 2
    before, after, _ = one("remove")
    assert before.phrases[:1] == after.phrases and before.count == after.count + 1 == 2
    before, after, case = one("replace")
    assert before.phrases[1] == after.phrases[1] and before.phrases[0].colour == after.phrases[0].colour
    assert case.words == (before.phrases[0].shape, after.phrases[0].shape)
    before, after, case = one("background")
    assert before.phrases == after.phrases and (before.background, after.background) == case.words
    before, after, case = one("action")
    assert before.phrases == after.phrases and (before.relation, after.relation) == case.words
    for task, changed in (("style", 2), ("texture", 1)):
        before, after, _ = one(task)
        assert sum(a != b for a, b in zip(before.phrases, after.phrases, strict=True)) == changed
    for case in BENCH:
        assert not {(p.colour, p.shape) for p in parse(case.target).phrases} & set(HELD_OUT)


def test_the_truth_has_better_marks_than_the_unchanged_picture():
    truth, before = (ReaderJudge()(BENCH[:], pictures(which)) for which in ("truth", "image"))
    assert bool((truth.total > before.total + 1).all())
    assert float(before.preservation.min()) == HIGH and float(before.quality.min()) == HIGH
    assert float(truth.accuracy.mean()) > 8 and float(before.accuracy.mean()) < 3


def test_marks_are_weighed_as_in_the_survey():
    marks = Marks(*(torch.tensor([v]) for v in (10.0, 5.0, 4.0, 1.0)))
    assert marks.total.tolist() == pytest.approx([0.4 * 10 + 0.3 * 5 + 0.2 * 4 + 0.1 * 1])
    assert sum(FACTORS.values()) == pytest.approx(1.0)


def test_preservation_is_linear_in_decibels_outside_of_the_region():
    grey, mask = torch.zeros(3, 64, 64), torch.zeros(64, 64, dtype=torch.bool)
    mask[:32] = True
    case = EditCase("a", "any", grey, "a red circle", "a red circle", mask)
    off = torch.where(mask, 1.0, 2 * 10 ** (-25 / 20)).expand(1, 3, -1, -1)  # 25 dB outside: half-way
    assert ReaderJudge()([case], off).preservation.tolist() == pytest.approx([(LOW + HIGH) / 2], abs=1e-4)
    whole = EditCase("a", "any", grey, "a red circle", "a red circle", torch.ones_like(mask))
    assert ReaderJudge()([whole], off).preservation.tolist() == [HIGH]
    with pytest.raises(BadInput, match="1 for 2 cases"):
        ReaderJudge()([case, case], off)


def test_blur_of_a_step_and_of_a_ramp():
    step = torch.ones(1, 3, 32, 32)
    step[..., :16] = -1.0
    assert float(blur(step)) == pytest.approx(1 / 9)  # of one difference of 2, nine of 2 / 9 are left
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    assert float(blur(ramp)) > 0.8 and float(blur(torch.zeros(1, 3, 32, 32))) == 1
