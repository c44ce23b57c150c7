"""What targets attend to beside, or instead of, themselves."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.editing import KVBank, MasaCtrl, Move, Paste
from suffuse.editing.key_value_bank import Chosen, Concatenated, Replaced

from .dragging_toys import run
from .editing_toys import Seen, close

WHOLE = {"step": 0.0, "layer": 0.0}


def seen(*editors):
    found = {}
    out = run(*editors, Seen(found))
    return out, {key: entry for key, entry in found.items() if entry[1].role == "self"}


def test_masactrl_is_a_bank_in_the_place_of_keys_and_values():
    assert torch.equal(run(MasaCtrl(0.2, 0.3)).target, run(KVBank(0.2, 0.3)).target)


def test_a_bank_that_never_acts_changes_nothing():
    plain = run().target
    for editor in (KVBank(step=1.0), KVBank(until=0.0, mixing=Concatenated()), KVBank(1.0, mixing=Chosen(Move(1)))):
        assert torch.equal(run(editor).target, plain)


@pytest.mark.parametrize("mixing", [Concatenated(), Chosen(Move(1, 0))])
def test_the_source_is_what_it_is_alone_and_the_target_is_not(mixing):
    plain, out = run(), run(KVBank(**WHOLE, mixing=mixing))
    assert close(out.source, plain.source) and not close(out.target, plain.target, 1e-4)


def test_concatenated_keys_are_the_targets_and_then_the_sources():
    _, found = seen(KVBank(**WHOLE, mixing=Concatenated()))
    for (i, _, what), entry in found.items():
        if what == "qkv" and i > 0:
            rows, _, q, k, v, _ = entry
            source, target, n = rows.index(("cond", 0)), rows.index(("cond", 2)), q.shape[2]
            assert torch.equal(k[target][:, n:], k[source][:, :n]) and torch.equal(v[source][:, n:], v[source][:, :n])
            assert not torch.equal(k[target][:, :n], k[source][:, :n])


def test_chosen_regions_are_attended_to_and_nothing_else():
    """Move(2, 1): the source outside of the new place, and the region at its old one, at 8 x 8 and at coarser sites."""
    _, found = seen(KVBank(**WHOLE, mixing=Chosen(Paste(2, 1))))
    for (_, _, what), entry in found.items():
        if what == "probs":
            rows, _, p = entry
            p = p[rows.index(("cond", 2))].sum((0, 1))
            n = len(p) // 2
            assert torch.allclose(entry[2].sum(-1), torch.ones(()), atol=1e-5)
            if n == 64:
                new, old = torch.zeros(2, 8, 8)
                new[2:4, 3:5], old[1:3, 1:3] = 1, 1
                assert torch.equal(p[:n] > 0, new.flatten() == 0) and torch.equal(p[n:] > 0, old.flatten() > 0)
                break
    else:
        pytest.fail("no self-attention on the grid of the picture was seen")


def test_pairs_do_not_touch_each_other():
    for mixing in (Replaced(), Concatenated(), Chosen(Move(1, 0))):
        both, alone = run(KVBank(**WHOLE, mixing=mixing)), run(KVBank(**WHOLE, mixing=mixing), rows=slice(1, 2))
        assert close(both.target[1:], alone.target, 1e-4)


def test_numbers_out_of_range():
    with pytest.raises(BadInput, match="KVBank"):
        KVBank(until=1.5)
