"""Windows with prompts of their own: each is what it would be alone, and without them they are plain windows."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.guidance import CFG
from suffuse.resolution import LocalPrompts, MultiDiffusion
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states

NET, COND = fixture("unet"), conditions("unet", 6)
OWN = COND["text"].view(2, 1, 3, *COND["text"].shape[1:])  # two pictures of 1 x 3 windows


def run(windows, own=None, width=16, rows=(0, 1), **changes):
    x = states("unet", 2, 16)[list(rows), :, :8, :width]
    cond = conditions("unet", 2)[list(rows)]
    if own is not None:
        cond = cond.with_alt(windows=Cond({"text": own[list(rows)]}))
    how = {"sampler": DDIM(), "steps": 3, "samples": list(rows), "guidance": windows | CFG(3.0), **changes}
    return sample(NET, x, cond=cond, **how).x


def test_without_prompts_of_their_own_windows_are_plain():
    assert torch.equal(run(LocalPrompts(8)), run(MultiDiffusion(8)))
    same = conditions("unet", 2)["text"][:, None, None].expand(-1, 1, 3, -1, -1)
    assert torch.equal(run(LocalPrompts(8), same), run(MultiDiffusion(8)))


def test_windows_that_do_not_overlap_are_pictures_alone():
    found = run(LocalPrompts(8, stride=1.0), OWN[:, :, :2], steps=1)
    x = states("unet", 2, 16)[:, :, :8]
    for k in range(2):
        cond = Cond({"text": OWN[:, 0, k]}, conditions("unet", 2).alt)
        alone = sample(
            NET, x[..., 8 * k : 8 * k + 8], sampler=DDIM(), steps=1, cond=cond, guidance=CFG(3.0), samples=[0, 1]
        )
        torch.testing.assert_close(found[..., 8 * k : 8 * k + 8], alone.x, atol=1e-5, rtol=1e-5)


def test_a_prompt_reaches_its_window_and_no_other():
    other = OWN.clone()
    other[:, 0, 2] = OWN[:, 0, 0].flip(1)
    changed = (run(LocalPrompts(8), OWN, steps=1) - run(LocalPrompts(8), other, steps=1)).abs().amax((0, 1, 2)) > 0
    assert not changed[:8].any() and changed[8:].any()


def test_batches_are_their_pictures_and_any_number_is_asked_at_once():
    both = run(LocalPrompts(8), OWN)
    torch.testing.assert_close(both[1:], run(LocalPrompts(8), OWN, rows=(1,)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both, run(LocalPrompts(8, batch=1), OWN), atol=1e-5, rtol=1e-5)


def test_windows_of_any_size_have_their_rows_and_columns():
    boxes = LocalPrompts(8, stride=0.75).boxes((8, 21), (8, 8))
    assert [[b.left for b in row] for row in boxes] == [[0, 6, 12, 13]]
    told = LocalPrompts(8, stride=0.75)
    own = torch.arange(4.0).view(1, 1, 4, 1)
    cond = Cond({"text": torch.zeros(1, 1)}).with_alt(windows=Cond({"text": own}))
    views = told.views((8, 21), (8, 8), None)
    assert [told.told(cond, view, (8, 21))["text"].item() for view in views] == [0, 1, 2, 3]


def test_refusals():
    with pytest.raises(BadInput, match="stride"):
        LocalPrompts(stride=0.0)
    with pytest.raises(BadInput, match="1x3 windows"):
        run(LocalPrompts(8, stride=1.0), OWN)
