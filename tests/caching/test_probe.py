"""The similarity probe: its matrices by hand, and recorded from runs."""

from __future__ import annotations

import pytest
import torch

from suffuse.caching.probe import Recorder, Similarity, similarity_probe
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.guidance import CFG
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import NAMES, conditions, fixture, states


def test_matrices_by_hand():
    f = torch.tensor([[[3.0, 4.0], [4.0, 3.0]], [[1.0, 0.0], [0.0, 2.0]]])
    found = Similarity.of(f)
    off = [(24 / 25 + 0.0) / 2, (1.0 + 1.5) / 2, (2**0.5 / 5 + 5**0.5) / 2, (2**0.5 / 5 + 5**0.5 / 2) / 2]
    torch.testing.assert_close(found.cosine, torch.tensor([[1.0, off[0]], [off[0], 1.0]], dtype=torch.float64))
    torch.testing.assert_close(found.l1, torch.tensor([[0.0, off[1]], [off[1], 0.0]], dtype=torch.float64))
    torch.testing.assert_close(found.l2, torch.tensor([[0.0, off[2]], [off[3], 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_any_block_unit_or_attention_is_recorded_row_by_row(name):
    net = fixture(name)
    names = [s.name for s in net.sites if s.kind in ("block", "unit", "attention")]
    run = {"sampler": DDIM(), "steps": 3, "guidance": CFG(3.0)}
    recorder = Recorder(names)
    sample(net, states(name, 2), cond=conditions(name, 2), patches=[recorder], **run)
    for site in names:
        assert recorder.features(site).shape[:2] == (4, 3), site  # two samples on two branches


def test_batches_are_averaged():
    net, names = fixture("unet"), ["mid_block", "conv_in"]
    run = {"sampler": DDIM(), "steps": 4, "guidance": CFG(3.0), "cond": conditions("unet", 3)}
    whole = similarity_probe(net, states("unet", 3), names, **run)
    parts = similarity_probe(net, states("unet", 3), names, batch=2, **run)
    for site in names:
        for kind in ("cosine", "l1", "l2"):
            torch.testing.assert_close(
                getattr(parts[site], kind), getattr(whole[site], kind), rtol=1e-4, atol=1e-6, check_dtype=True
            )
    assert whole["mid_block"].cosine.diagonal().allclose(torch.ones(4, dtype=torch.float64))


def test_unknown_names_and_branches_with_gaps_are_refused():
    net, run = fixture("unet"), {"sampler": DDIM(), "steps": 3, "cond": conditions("unet", 1)}
    with pytest.raises(BadInput, match="'nowhere'"):
        similarity_probe(net, states("unet", 1), ["nowhere"], **run)
    recorder = Recorder(["mid_block"])
    recorder.kept.update({("mid_block", 0): {("", 0): torch.zeros(2)}, ("mid_block", 1): {("", 1): torch.zeros(2)}})
    with pytest.raises(BadInput, match="every step"):
        recorder.features("mid_block")
