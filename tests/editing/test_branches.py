"""Rows of targets and of their sources."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.core.guidance import Guidance
from suffuse.editing import MasaCtrl
from suffuse.editing.branches import branches, match
from suffuse.samplers.ancestral import DDIM

from .editing_toys import net, pictures, prompts


def test_rows_are_matched_on_their_own_path():
    rows = (("cond", 0), ("cond", 1), ("null", 1), ("null", 0))
    assert match(rows, [0, 0, 0, 0]) == ([1, 2], [0, 3])


def test_rows_in_another_order_and_subset():
    assert match((("", 3), ("", 2), ("", 1)), [1, 2, 1]) == ([0], [2])


def test_a_target_without_its_source_is_refused():
    with pytest.raises(Refused, match="branch 'null' is evaluated for the edit 1 without its source"):
        match((("cond", 0), ("cond", 1), ("null", 1)), [0, 0, 0])


def test_branches_join_conditions_and_say_who_is_whose():
    a, b = (
        Cond({"text": torch.full((2, 3, 4), v)}, {"null": Cond({"text": torch.zeros(2, 3, 4)})}) for v in (1.0, 2.0)
    )
    both = branches(a, b, 2)
    assert both["text"][:, 0, 0].tolist() == [1, 1, 2, 2]
    assert both.branch("null").alt["pair"]["source"].tolist() == [0, 1, 0, 1]


def test_prompts_of_other_rows_or_widths_are_refused():
    a = Cond({"text": torch.zeros(2, 3, 4)})
    with pytest.raises(BadInput, match="source has 2 rows and target 1 for 2 pictures"):
        branches(a, a[:1], 2)
    with pytest.raises(BadInput, match="do not make one batch"):
        branches(a, Cond({"text": torch.zeros(2, 5, 4)}), 2)


def test_an_editor_without_a_source_branch_is_refused():
    cond = prompts("unet")[0]
    with pytest.raises(Refused, match=r"MasaCtrl.*run it through `suffuse.editing.edit`"):
        sample(net("unet"), pictures("unet"), sampler=DDIM(), steps=2, cond=cond, patches=[MasaCtrl(0.0)])


@dataclass(frozen=True)
class OnlyTargets(Guidance):
    """CFG that asks for the unconditional prediction of the last two samples alone."""

    def __call__(self, predict, x, t, cond, at):
        rows = torch.tensor([2, 3])
        pc = predict(x, t, cond, "cond")
        return pc.put(rows, predict[rows](x[rows], t[rows], cond[rows].branch("null"), "null"))


def test_a_guidance_that_leaves_sources_out_is_refused():
    x, cond = pictures("unet").repeat(2, 1, 1, 1), branches(*prompts("unet"), 2)
    run = dict(sampler=DDIM(), steps=2, cond=cond, guidance=OnlyTargets())
    assert torch.isfinite(sample(net("unet"), x, patches=[MasaCtrl(0.0).only("cond")], **run).x).all()
    with pytest.raises(Refused, match="branch 'null' is evaluated for the edit 2 without its source"):
        sample(net("unet"), x, patches=[MasaCtrl(0.0)], **run)
