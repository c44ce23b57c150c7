"""Sessions of edits, and SPICE in them: what is outside stays to the bit, edits are undone, and made again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Damaged
from suffuse.core.hook import Hook
from suffuse.core.patch import Patch
from suffuse.editing import SPICE, EditSession, MaskedBlend, NoiseLevelMask, Stage, canny
from suffuse.editing.spice import at_least, blurred, bounding_box, extended, without_dots
from suffuse.layout import ControlNet
from suffuse.loading.pipelines import assemble
from suffuse.resolution.tiles import Box
from suffuse.samplers import DDIM
from suffuse.testing import pipelines
from suffuse.testing.fixtures import conditions, fixture, states

QUICK = SPICE("a red circle", control_steps=1, steps=4, blur=3.0, guidance=2.0)


@cache
def model():
    pipe = pipelines.stable_diffusion()
    scheduler = {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    return assemble(type(pipe).__name__, pipe.components, scheduler)


def picture(height=48, width=56, k=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(k)) * 2 - 1


def disc(x, y, r=9, height=48, width=56):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((columns - x) ** 2 + (rows - y) ** 2 < r * r).float()[None, None]


@cache
def session():
    return EditSession.of(picture()).do(QUICK, model(), disc(15, 20)).do(replace(QUICK, seed=1), model(), disc(40, 30))


def test_what_no_mask_covers_is_the_first_pictures_after_many_edits():
    now, covered = EditSession.of(picture()), torch.zeros(1, 1, 48, 56)
    for k in range(12):
        mask = disc(10 + 3 * (k % 6), 15 + k, 8)
        now, covered = now.do(replace(QUICK, seed=k), model(), mask), torch.maximum(covered, mask)
    outside = (covered == 0).expand(1, 3, -1, -1)
    assert torch.equal(now.pixels[outside], now.start[outside])
    assert not torch.equal(now.pixels[~outside], now.start[~outside])


def test_edits_are_undone_and_done_again():
    one = session().undo()
    assert torch.equal(one.pixels, session().edits[0].pixels) and torch.equal(one.undo().pixels, session().start)
    assert torch.equal(one.redo().pixels, session().pixels)
    other = one.do(replace(QUICK, seed=9), model(), disc(40, 30))
    assert len(other.edits) == 2 and not torch.equal(other.pixels, session().pixels)
    with pytest.raises(BadInput, match="no edit is undone"):
        other.redo()
    with pytest.raises(BadInput, match="no edit is left"):
        one.undo().undo()


def test_a_saved_session_is_made_again_to_the_bit(tmp_path):
    drawn = session().pixels.clone()
    drawn[..., 10:20, 10:20] = torch.tensor([1.0, -1, -1])[:, None, None]
    whole = session().do(QUICK, model(), disc(15, 15), hint=drawn).undo()
    again = EditSession.load(whole.save(tmp_path / "a.session"), model())
    assert torch.equal(again.pixels, whole.pixels) and torch.equal(again.redo().pixels, whole.redo().pixels)
    assert [e.edit for e in again.edits] == [e.edit for e in whole.edits]
    (tmp_path / "b.session").write_bytes(b"no")
    for name in ("b.session", "c.session"):
        with pytest.raises(Damaged, match="not a session of edits"):
            EditSession.load(tmp_path / name, model())


def test_a_hint_is_seen():
    drawn = picture()
    drawn[..., 12:28, 8:24] = 1.0
    plain, hinted = (EditSession.of(picture()).do(QUICK, model(), disc(15, 20), hint=h) for h in (None, drawn))
    assert not torch.equal(plain.pixels, hinted.pixels)


def test_a_control_makes_the_first_steps_and_sees_the_hinted_crop():
    asked, seen = [], []

    @dataclass(frozen=True)
    class Noted(Patch):
        def sites(self, net):
            return [net.root]

        def around(self, call):
            asked.append((call.at.i, "control" in call.cond))
            return call()

    def edges(drawn):
        seen.append(drawn)
        return {"control": canny(drawn)}

    net, hint = model().denoiser, picture(k=5)
    branch = ControlNet(widths=(4, 8, 8)).on(net)
    for p in branch.parameters():
        p.data += 0.1
    control = Stage(net.with_(Noted(), branch), sees=edges)
    how = (replace(QUICK, steps=10, control_steps=3), model(), disc(15, 20), hint)
    found = EditSession.of(picture()).do(*how, control=control)
    assert asked == [(1, True), (2, True), (3, True)]  # strength 0.9: the run begins at step 1 of 10
    assert len(seen) == 1 and seen[0].shape == (1, 3, *at_least(bounding_box(disc(15, 20)), (32, 32), 8))
    assert not torch.equal(found.pixels, EditSession.of(picture()).do(*how).pixels)


def test_the_box_holds_the_dots_and_the_mask_does_not():
    mask = torch.zeros(1, 1, 40, 60)
    mask[..., 10:20, 10:25] = 1.0
    mask[..., 35:37, 50:52] = 1.0
    assert bounding_box(mask) == Box(10, 10, 27, 42)
    region = without_dots(mask, 16)
    assert region.sum() == 150 and bounding_box(region) == Box(10, 10, 10, 15)
    assert torch.equal(without_dots(mask, 3), mask)
    with pytest.raises(BadInput, match="context dots"):
        without_dots(mask, 200)
    with pytest.raises(BadInput, match="is empty"):
        bounding_box(torch.zeros(1, 1, 4, 4))


def test_crops_have_at_least_the_models_size():
    assert at_least(Box(0, 0, 16, 32), (64, 64), 4) == (32, 64)
    assert at_least(Box(0, 0, 130, 65), (64, 64), 4) == (132, 68)


def test_a_blurred_mask_is_soft_at_its_border():
    soft = blurred(disc(28, 24, 15), 6.0)
    assert soft[0, 0, 24, 28] > 0.99 and soft[0, 0, 0, 0] < 0.01 and 0.3 < soft[0, 0, 24, 13] < 0.7
    assert torch.equal(blurred(disc(28, 24), 0.0), disc(28, 24))


def test_a_larger_canvas_is_new_where_it_is_larger():
    pixels, mask = extended(picture(8, 8), left=2, bottom=3)
    assert pixels.shape == (1, 3, 11, 10) and mask.sum() == 11 * 10 - 64
    assert torch.allclose(pixels[..., :8, 2:], picture(8, 8), atol=1e-6)


def test_pixels_become_free_when_the_noise_falls_below_their_value():
    x0 = states("unet", 1)
    mask = torch.tensor([0.0, 0.3, 0.6, 1.0]).repeat_interleave(2).expand(1, 1, 8, 8)
    known = Cond({"x0": x0, "noise": states("unet", 2)[1:], "mask": mask})
    cond = conditions("unet", 1).with_alt(known=known)
    seen = []

    @dataclass(frozen=True)
    class Note(Hook):
        def __call__(self, step, x, at):
            seen.append(step.cond.alt["known"]["mask"][0, 0, 0, ::2].tolist())
            return step(x, at)

    hooks = [NoiseLevelMask(), Note(), MaskedBlend()]
    sample(fixture("unet"), states("unet", 1), sampler=DDIM(), steps=4, cond=cond, hooks=hooks)
    assert seen == [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]


def test_another_denoiser_makes_a_part_of_the_run():
    first, second = fixture("unet"), fixture("unet-v")
    how = {"sampler": DDIM(), "steps": 4, "cond": conditions("unet", 2), "save": lambda run: run.state.x}
    plain, whole = (sample(net, states("unet", 2), **how).saved for net in (first, second.under(first.process)))
    staged = sample(first, states("unet", 2), hooks=[Stage(second).during(0.0, 0.5)], **how).saved
    assert torch.allclose(staged[2], whole[2], atol=1e-5) and not torch.allclose(staged[2], plain[2], atol=1e-3)
    own = sample(first, states("unet", 2), hooks=[Stage(first)], **how).saved
    assert torch.equal(own[-1], plain[-1])
    told = Cond({"text": states("unet", 1).flatten()[:160].reshape(2, 5, 16)})
    other = {**how, "cond": how["cond"].with_alt(stage=told)}
    assert not torch.equal(sample(first, states("unet", 2), hooks=[Stage(first)], **other).saved[-1], plain[-1])
