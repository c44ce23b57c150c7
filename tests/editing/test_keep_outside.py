"""What is outside of a mask stays: in an edit's states, along a known path, and in pixels; masks found by DiffEdit."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.editing import DiffEdit, DirectInversion, KeepOutside, KeepPath, SDEdit, composite, decode
from suffuse.editing.keep_outside import to_grid
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, states

from .editing_toys import close, net, pictures, plan, prompts


def masked(mask):
    """Both prompts, with the user's mask of each picture."""
    return [c.with_alt(place=Cond({"mask": mask})) for c in prompts("unet")]


def left(value=1.0):
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., :8] = value
    return mask


def run(mask, *editors, inversion=DirectInversion()):
    a, b = masked(mask)
    p = plan("unet")
    return decode(p, inversion.encode(p, pictures("unet"), a), a, b, editors)


def test_cells_are_as_free_as_their_pixels_on_average():
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 3, 4], mask[0, 0, 6, 0] = 1.0, 0.25
    assert to_grid(mask, (2, 2)).tolist() == [[[[0.0, 1 / 16], [1 / 64, 0.0]]]]


def test_composite_is_exact_at_both_ends():
    before, after = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 100
    mask = torch.tensor([0.0, 1.0, 0.5, 0.25]).repeat(2, 1, 8, 2)
    out = composite(before, after, mask)
    assert torch.equal(out[..., 0], before[..., 0]) and torch.equal(out[..., 1], after[..., 1])
    assert torch.allclose(out[..., 3], 0.75 * before[..., 3] + 0.25 * after[..., 3], atol=1e-4)


@pytest.mark.parametrize("inversion", [DirectInversion(), SDEdit(0.6)])
def test_the_outside_is_the_sources_and_the_inside_is_not(inversion):
    out = run(left(), KeepOutside(), inversion=inversion)
    assert torch.equal(out.target[..., 4:], out.source[..., 4:])
    assert not close(out.target[..., :4], out.source[..., :4], 1e-3)


def test_a_mask_of_ones_changes_nothing_and_an_empty_one_gives_the_source():
    plain = run(left())
    assert torch.equal(run(torch.ones(2, 1, 16, 16), KeepOutside()).target, plain.target)
    empty = run(torch.zeros(2, 1, 16, 16), KeepOutside())
    assert torch.equal(empty.target, empty.source)


def test_soft_masks_blend_and_windows_leave_the_rest_free():
    half = run(left(0.5), KeepOutside())
    assert not close(half.target, half.source, 1e-4) and torch.equal(half.target[..., 4:], half.source[..., 4:])
    early = run(left(), KeepOutside().during(0.0, 0.6))
    assert not torch.equal(early.target[..., 4:], early.source[..., 4:])


def test_pictures_keep_to_their_own_masks():
    mask = left()
    mask[1] = mask[1].flip(-1)
    out = run(mask, KeepOutside())
    assert torch.equal(out.target[0, ..., 4:], out.source[0, ..., 4:])
    assert torch.equal(out.target[1, ..., :4], out.source[1, ..., :4])


def test_the_mask_has_to_be_given():
    a, b = prompts("unet")
    p = plan("unet")
    code = DirectInversion().encode(p, pictures("unet"), a)
    with pytest.raises(BadInput, match="KeepOutside.*give mask to"):
        decode(p, code, a, b, [KeepOutside()])


def test_a_path_is_kept_to_where_the_state_is_not_free():
    x, known = states("unet", 2), torch.stack([states("unet", 8)[k : k + 2] for k in range(4)], 1)
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1.0
    cond = conditions("unet", 2).with_alt(path=Cond({"states": known, "mask": mask}))
    how = {"sampler": DDIM(), "steps": 5, "cond": cond, "save": lambda run: run.state.x}
    out = sample(net("unet"), x, hooks=[KeepPath().during(0.4, 1.0)], **how)
    free = sample(net("unet"), x, **how)
    for i in (0, 1, 2):
        assert torch.equal(out.saved[i], free.saved[i])
    for i in (3, 4, 5):
        assert torch.equal(out.saved[i][..., 4:], known[:, i - 2, ..., 4:])
    assert torch.equal(out.saved[3][..., :4], free.saved[3][..., :4])
    with pytest.raises(BadInput, match=r"KeepPath.*give cond.with_alt\(path="):
        sample(net("unet"), x, hooks=[KeepPath()], sampler=DDIM(), steps=2, cond=conditions("unet", 2))


def test_diffedit_keeps_the_path_where_the_prompts_agree():
    a, b = prompts("unet")
    p, x0 = plan("unet"), pictures("unet")

    def edit(**settings):
        inverter = DiffEdit(strength=1.0, draws=2, **settings)
        return decode(p, inverter.encode(p, x0, a), a, b)

    everywhere, some, nowhere = (edit(threshold=t) for t in (-1.0, 0.34, 1.0))
    assert torch.equal(nowhere.target, x0) and torch.equal(some.source, x0)
    assert torch.equal(everywhere.target, run(left()).target)  # Direct Inversion
    kept = (some.target == x0).all(1)
    assert 0.1 < kept.float().mean() < 0.9


def test_diffedit_finds_nothing_between_equal_prompts():
    a, _ = prompts("unet")
    p, x0 = plan("unet"), pictures("unet")
    inverter = DiffEdit(draws=1, threshold=0.0)
    assert torch.equal(decode(p, inverter.encode(p, x0, a), a, a).target, x0)


def test_diffedit_pictures_alone_are_what_they_are_in_a_batch():
    a, b = prompts("unet")
    p, inverter = plan("unet"), DiffEdit(draws=2, threshold=0.34)
    code = inverter.encode(p, pictures("unet"), a)
    both, alone = decode(p, code, a, b), decode(p, code[:1], a[:1], b[:1])
    assert close(both.target[:1], alone.target, 1e-4)


def test_diffedit_refuses_a_run_of_its_own():
    with pytest.raises(Refused, match="DiffEdit.*suffuse.editing.edit"):
        sample(net("unet"), (2, 4, 8, 8), hooks=[DiffEdit()], sampler=DDIM(), steps=2, cond=conditions("unet", 2))
    for bad in ({"level": 0.0}, {"draws": 0}):
        with pytest.raises(BadInput, match="DiffEdit"):
            DiffEdit(**bad)
