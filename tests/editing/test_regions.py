"""Operations as maps, by hand."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.core.memory import rows_of
from suffuse.editing import Appearance, Displaced, Drag, Move, Paste
from suffuse.editing.feature_probe import centres
from suffuse.editing.regions import Pointed

from .dragging_toys import SIZE, mask, pointed, run
from .editing_toys import net, pictures, plan

PLACES = centres(SIZE, SIZE, (SIZE, SIZE))


def grid(v):
    return v.view(-1, SIZE, SIZE)


def test_a_move_puts_the_mask_elsewhere_and_knows_where_it_was():
    found = Move(2, 1).region(Pointed(mask(), mask()), PLACES)
    assert torch.equal(grid(found.new), mask()[:, 0].roll((1, 2), (1, 2)))
    assert torch.equal(grid(found.old), mask()[:, 0])
    assert torch.equal(found.free, torch.maximum(found.new, found.old))
    assert torch.allclose(found.origin, PLACES - torch.tensor([2.0, 1.0]))


def test_scaling_is_about_the_regions_own_centre():
    found = Move(scale=2.0).region(Pointed(mask()[:1], mask()[:1]), PLACES)
    assert torch.equal(grid(found.new)[0].nonzero().unique(dim=0)[[0, -1]], torch.tensor([[0, 0], [3, 3]]))
    assert torch.allclose(grid(found.origin[..., 0])[0, 0, :4], torch.tensor([1.25, 1.75, 2.25, 2.75]))


def test_a_drag_takes_squares_along_and_may_change_what_the_mask_marks():
    points = torch.tensor([[[2.5, 2.5, 5.5, 3.5]]])
    found = Drag(radius=1.0).region(Pointed(mask()[:1], mask()[:1], points), PLACES)
    assert grid(found.new)[0].nonzero().tolist() == [[y, x] for y in (2, 3, 4) for x in (4, 5, 6)]
    assert grid(found.old)[0].nonzero().tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3)]
    assert torch.equal(grid(found.free), mask()[:1, 0]) and torch.equal(found.inside, found.free)
    moved = (PLACES - found.origin[0])[found.new[0] > 0]
    assert torch.equal(moved, torch.tensor([3.0, 1.0]).expand(9, 2))


def test_regions_of_another_picture():
    found = Paste(1, 0, of=1).region(Pointed(mask()[:1], mask()[1:]), PLACES)
    assert torch.equal(grid(found.new), mask()[1:, 0].roll(1, 2)) and torch.equal(found.free, found.new)
    assert torch.equal(found.old, mask()[1:].flatten(1))
    found = Appearance(of=1).region(Pointed(mask()[:1], mask()[1:]), PLACES)
    assert torch.equal(grid(found.new), mask()[:1, 0]) and torch.equal(grid(found.old), mask()[1:, 0])
    rows = rows_of("cond", (0, 1, 2, 3))
    assert Paste(of=1).taken(rows, [0, 1]) == [1, 1] and Move().taken(rows, [1]) == [1]
    with pytest.raises(BadInput, match="of=7 is none of the pictures"):
        Paste(of=7).taken(rows, [0])


@pytest.mark.parametrize("operation", [Move(6, 0), Move(0, -2), Move(scale=4.0)])
def test_what_would_leave_the_picture_is_refused(operation):
    with pytest.raises(BadInput, match="region of picture 0 would reach from .* of a picture of 8 x 8"):
        operation.region(Pointed(mask(), mask()), PLACES)


def test_an_empty_mask_and_a_scale_of_nothing():
    with pytest.raises(BadInput, match="that of picture 1 is empty"):
        Move(1, 0).region(Pointed(mask(), mask() * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)), PLACES)
    with pytest.raises(BadInput, match="scale is above 0"):
        Move(scale=0.0)


def test_an_edit_without_a_mask_says_so():
    from suffuse.editing.branches import PLACE

    a, _ = pointed()
    bare = type(a)(a.entries, {k: v for k, v in a.alt.items() if k != PLACE}, a.spans)
    with pytest.raises(BadInput, match="needs to know where; give mask"):
        Displaced(Move(1, 0)).encode(plan("unet"), pictures("unet"), bare)


def test_noise_goes_along_with_the_region():
    a, _ = pointed()
    p = plan("unet")
    code = Displaced(Move(2, 1)).encode(p, pictures("unet"), a)
    assert code.target.shape == code.x.shape and net("unet") is p.denoiser
    moved = mask().roll((1, 2), (2, 3)) > 0
    assert torch.equal(code.target, torch.where(moved, code.x.roll((1, 2), (2, 3)), code.x))
    out = run(inversion=Displaced(Move(2, 1)))
    assert not torch.allclose(out.target, run().target, atol=1e-3) and torch.equal(out.source, run().source)
