"""DragonDiffusion and DiffEditor: presets of one task, and what the second adds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.core.hook import Hook
from suffuse.editing import (
    Appearance,
    DiffEditor,
    Drag,
    DragonDiffusion,
    KVBank,
    Move,
    Paste,
    RegionalSDE,
    TimeTravel,
)
from suffuse.editing.drag_hooks import Alone, RegionalDDIM
from suffuse.editing.key_value_bank import Chosen, Concatenated, Replaced
from suffuse.personalization import ImagePrompt, IPAdapter

from .dragging_toys import mask, run
from .editing_toys import close
from .test_task import model, picture

MOVE = Move(2, 1)
OFF = {"eta": 0.0, "times": 1, "regional": False, "dense": 1.0}


def toy(task, **more):
    """A task on the fixture, whose decoder has two blocks."""
    return run(*replace(task, blocks=(0, 1)).editors, inversion=task.inversion, steps=15, **more)


def test_without_its_additions_diffeditor_is_dragondiffusion():
    plain, off = DragonDiffusion(MOVE, 5.0), DiffEditor(MOVE, 5.0, **OFF)
    assert off.editors == plain.editors and off.inversion == plain.inversion
    assert torch.equal(toy(off).target, toy(plain).target)


@pytest.mark.parametrize("name", OFF)
def test_each_addition_changes_the_edit_and_leaves_the_source(name):
    given = DiffEditor(MOVE, 5.0)
    out = toy(DiffEditor(MOVE, 5.0, **{**OFF, name: getattr(given, name)}))
    plain = toy(DragonDiffusion(MOVE, 5.0))
    assert close(out.source, plain.source, 1e-4) and not close(out.target, plain.target, 1e-4)


def test_noise_is_in_the_region_alone_and_that_of_the_pair():
    editor = RegionalSDE(MOVE, 0.5, start=0.5, stop=0.8)
    plain, noisy = run(), run(editor)
    assert close(noisy.source, plain.source, 1e-5) and not close(noisy.target, plain.target, 1e-4)
    alone = run(editor, rows=slice(0, 1))
    assert close(noisy.target[:1], alone.target, 1e-4)


def test_a_step_with_regional_noise_is_ddims_law():
    """Inside of the region the move from t to s has DDIM's mean and deviation at that eta, outside those at 0."""
    seen = {}

    class Keep(Hook):
        def __call__(self, step, x, at):
            out = step(x, at)
            if at.i == 1:
                p = step.predict(at)(x, at.t)
                seen["law"] = [at.process.posterior(x, p, at.t, at.s, eta) for eta in (0.0, 0.5)]
                seen["out"], seen["noise"] = out, at.but(samples=(0, 1, 0, 1), owner=None).noise(x, "region")
            return out

    run(Keep(), RegionalSDE(MOVE, 0.5, start=0.1, stop=0.4), steps=5)
    certain, random = seen["law"]
    region = torch.maximum(mask(), mask().roll((1, 2), (2, 3))) > 0
    wanted = torch.where(region, random.at(seen["noise"])[2:], certain.mean[2:])
    assert torch.allclose(seen["out"][2:], wanted, atol=1e-4)


def test_time_travel_makes_steps_again():
    plain, again = run(steps=10), run(TimeTravel(start=0.3), steps=10)
    assert close(again.source, plain.source, 1e-5) and not close(again.target, plain.target, 1e-4)
    # step 4 twice more (2 rows, 2 branches), and twice an unguided evaluation of both rows to go back
    assert (again.nfe - plain.nfe).tolist() == [2 * 4 + 2 * 2] * 2


def test_the_papers_steps_of_50(monkeypatch):
    """Noise in 11 to 19, and 22, 24, 26, 28 twice again; on the way back no branch attends to another."""
    noisy, made, alone, plain = [], [], [], RegionalDDIM.step
    monkeypatch.setattr(RegionalDDIM, "step", lambda self, p, x, at, m: noisy.append(at.i) or plain(self, p, x, at, m))

    class Noted(Hook):
        def __call__(self, step, x, at):
            (alone if step.predict(at).guidance == (Alone(),) else made).append(at.i)
            return step(x, at)

    run(RegionalSDE(MOVE), TimeTravel(), Noted(), steps=50)
    assert noisy == list(range(11, 20))
    assert [k for k in range(50) if made.count(k) == 3] == [22, 24, 26, 28]
    assert alone == [22, 22, 24, 24, 26, 26, 28, 28] and len(made) == 58


def test_how_targets_attend_depends_on_the_operation():
    kinds = {MOVE: Replaced(), Drag(): Concatenated(), Paste(of=1): Chosen(Paste(of=1))}
    for operation, mixing in kinds.items():
        assert DragonDiffusion(operation).editors[1].mixing == mixing
    assert not any(isinstance(e, KVBank) for e in DragonDiffusion(MOVE, bank=False).editors)
    assert DragonDiffusion(Appearance()).editors[1].until == 0.7


@pytest.mark.parametrize("task", [DragonDiffusion(Move(16, 8)), DiffEditor(Move(scale=1.4))])
def test_on_a_model(task):
    white = torch.zeros(1, 1, 64, 64)
    white[..., 20:36, 16:32] = 1
    task = replace(task, scale=1.0, blocks=(0, 1))
    made = task(model(), picture(), "a red circle", mask=white, steps=5)
    assert len(made.images) == 1 and torch.isfinite(made.decoded.target).all()
    with pytest.raises(BadInput, match="needs to know where"):
        task(model(), picture(), "a red circle", steps=5)


def test_an_image_prompt_shows_the_picture_itself():
    white = torch.zeros(1, 1, 64, 64)
    white[..., 20:36, 16:32] = 1
    seen = []

    def tokens(pictures):
        seen.append(pictures)
        return torch.ones(1, 3, 16), torch.zeros(1, 3, 16)

    made = ImagePrompt().on(model().denoiser)
    for p in made.parameters():
        p.data += 0.3
    task = DiffEditor(Move(16, 8), 1.0, blocks=(0, 1), **OFF)
    told = replace(task, image_prompt=IPAdapter(tokens, made))
    how = (model(), picture(), "a red circle")
    plain, prompted, unseen = (t(*how, mask=white, steps=3) for t in (task, told, replace(told, shown=0.0)))
    assert all(torch.equal(v, picture()) for v in seen)
    assert torch.equal(unseen.decoded.target, plain.decoded.target)
    assert not torch.equal(prompted.decoded.target, plain.decoded.target)


def test_a_drag_with_points_on_a_model():
    white = torch.ones(1, 1, 64, 64)
    task = DragonDiffusion(Drag(), 1.0, blocks=(0, 1))
    made = task(model(), picture(), "a", mask=white, points=[[20, 20, 40, 30]], steps=3)
    assert torch.isfinite(made.decoded.target).all()


def test_numbers_out_of_range():
    for make in (lambda: RegionalSDE(MOVE, 2.0), lambda: TimeTravel(0)):
        with pytest.raises(BadInput):
            make()
