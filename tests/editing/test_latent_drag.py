"""Motion supervision and point tracking by hand, and the latent that comes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.errors import BadInput
from suffuse.editing import DragDiffusion, KVBank, LatentDrag, decode
from suffuse.editing.branches import PLACE
from suffuse.editing.latent_drag import square
from suffuse.guidance import CFG

from .editing_toys import close, pictures, plan, prompts
from .test_task import model, picture

SIZE = (16, 16)
DRAG = LatentDrag(iterations=3, rate=0.05, block=1)


def cond(points, rows=2, free=1.0):
    a, _ = prompts("unet")
    entries = {"mask": torch.full((2, 1, *SIZE), free), "points": torch.tensor(points).expand(2, -1, -1)}
    return a.with_alt(**{PLACE: Cond(entries)})[:rows]


def spot(x, y):
    """Features on 8 x 8 cells: a bump at (x, y), in pixels of a picture of 16 x 16."""
    at = torch.arange(8) * 2.0 + 1.0
    return torch.exp(-((at - x)[None] ** 2 + (at[:, None] - y) ** 2) / 8)[None, None]


def test_squares_are_of_cells_of_two_pixels():
    assert square(1).tolist() == [[x, y] for y in (-2, 0, 2) for x in (-2, 0, 2)]


def test_a_handle_is_found_where_its_features_have_gone():
    handle = torch.tensor([[[5.0, 7.0]]])
    looks = torch.ones(1, 1, 1)
    assert DRAG.tracked(spot(9.0, 7.0), handle, looks, SIZE).tolist() == [[[9.0, 7.0]]]
    assert replace(DRAG, search=1).tracked(spot(9.0, 7.0), handle, looks, SIZE).tolist() == [[[7.0, 7.0]]]
    corner = DRAG.tracked(spot(1.0, 1.0), torch.tensor([[[1.0, 1.0]]]), looks, SIZE)
    assert corner.tolist() == [[[1.0, 1.0]]]


def test_supervision_compares_a_square_with_the_one_a_cell_further():
    """On the field x the next cell to the right is 2 more, at each of 9 places; arrived handles do not count."""
    field = (torch.arange(8) * 2.0 + 1.0).expand(1, 1, 8, 8).clone().requires_grad_()
    handles, targets = torch.tensor([[[7.0, 7.0], [5.0, 9.0]]]), torch.tensor([[[13.0, 7.0], [5.0, 9.0]]])
    away = torch.tensor([[True, False]])
    loss = DRAG.supervision(field, handles, targets, away, SIZE)
    assert loss.item() == pytest.approx(9 * 2.0)
    (slope,) = torch.autograd.grad(loss.sum(), field)
    assert slope[0, 0, 2:5, 2:6].eq(torch.tensor([0.0, 1.0, 1.0, 1.0])).all()  # only what is further on has a gradient


def test_no_iterations_and_arrived_handles_move_nothing():
    p = plan("unet")
    for drag, points in ((replace(DRAG, iterations=0), [[3.0, 3.0, 9.0, 3.0]]), (DRAG, [[3.0, 3.0, 4.0, 3.0]])):
        code = drag.encode(p, pictures("unet"), cond(points))
        assert torch.equal(code.target, code.x)


def test_the_latent_moves_and_the_source_does_not():
    p, c = plan("unet", CFG(1.0)), cond([[3.0, 3.0, 11.0, 3.0]])
    code = DRAG.encode(p, pictures("unet"), c)
    assert code.x.shape == code.target.shape and not torch.allclose(code.x, code.target, atol=1e-3)
    assert float((code.target - code.x).abs().max()) <= 3 * 0.05 * 1.01  # Adam's longest way
    out = decode(p, code, c, c, [KVBank(0.0, 0.5)])
    assert torch.allclose(out.source, pictures("unet"), atol=1e-4) and not close(out.target, out.source, 1e-3)


def test_pictures_are_dragged_one_by_one():
    p, points = plan("unet"), [[3.0, 3.0, 11.0, 3.0], [9.0, 9.0, 9.0, 3.0]]
    both, alone = (DRAG.encode(p, pictures("unet")[:n], cond(points, n)) for n in (2, 1))
    assert torch.allclose(both.target[:1], alone.target, atol=1e-3)


def test_what_may_not_change_is_held():
    p, x, points = plan("unet"), pictures("unet"), [[3.0, 3.0, 11.0, 3.0]]
    held = replace(DRAG, keep=100.0).encode(p, x, cond(points, free=0.0))
    loose = replace(DRAG, keep=0.0).encode(p, x, cond(points, free=0.0))

    def moved(code):
        t, s = p.grid.node(1), p.grid.node(2)
        states = [DRAG.seen(p, z, t, s, cond(points), SIZE)[1] for z in (code.x, code.target)]
        return (states[0] - states[1]).abs().sum().item()

    assert moved(held) < moved(loose)


def test_features_of_both_branches_of_a_generated_picture():
    p, z, t = plan("unet"), pictures("unet"), plan("unet").grid.node(1)
    one, two = (
        replace(DRAG, w=w).seen(p, z, t, p.grid.node(2), cond([[3.0, 3.0, 11.0, 3.0]]), SIZE)[0] for w in (1.0, 3.0)
    )
    assert two.shape[1] == 2 * one.shape[1] and torch.allclose(two[:, one.shape[1] :], 0.6 * one, atol=1e-5)


def test_without_points_or_out_of_range():
    a, _ = prompts("unet")
    with pytest.raises(BadInput, match="needs to know where"):
        DRAG.encode(plan("unet"), pictures("unet"), a)
    with pytest.raises(BadInput, match="w is 1 or more"):
        replace(DRAG, w=0.5)


def test_dragdiffusion_on_a_model_leaves_the_model_as_it_was():
    before = model().fingerprint
    task = DragDiffusion(DRAG, rank=2, lora_steps=2, bank=KVBank(0.0, 0.5))
    white = torch.ones(1, 1, 64, 64)
    out = task(model(), picture(), "a red circle", points=[(20, 20, 40, 20)], mask=white, steps=4)
    bare = replace(task, lora_steps=0)(
        model(), picture(), "a red circle", points=[(20, 20, 40, 20)], mask=white, steps=4
    )
    assert len(out.images) == 1 and model().fingerprint == before
    assert not torch.equal(out.decoded.target, bare.decoded.target)
