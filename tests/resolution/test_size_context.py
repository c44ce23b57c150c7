"""What patches know of sizes: native grids of sites, and how a run compares with them."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.resolution import SizeContext
from suffuse.testing.fixtures import fixture


@pytest.mark.parametrize(
    ("name", "root", "expected"),
    [
        ("unet", (8, 8), {"down_blocks.0": (8, 8), "down_blocks.0.downsamplers.0": (8, 8), "mid_block": (4, 4),
                          "up_blocks.0.upsamplers.0": (4, 4), "up_blocks.1": (8, 8), "conv_out": (8, 8)}),
        ("unet-class", (8, 8), {"down_blocks.1.attentions.0": (4, 4)}),
        ("sd3", (8, 8), {"pos_embed": (8, 8), "transformer_blocks.0.attn": (4, 4)}),
        ("pixart", (8, 8), {"transformer_blocks.1.attn1": (4, 4)}),
        ("flux", (128, 128), {"single_transformer_blocks.1.attn": (64, 64)}),
    ],
)  # fmt: skip
def test_sites_know_their_native_grid(name, root, expected):
    sites = fixture(name).sites
    assert sites.root.grid == root
    grids = {s.name: s.grid for s in sites if s.kind in ("block", "unit", "attention")}
    assert {k: grids[k] for k in expected} == expected


def test_size_context():
    size = SizeContext.of(fixture("unet"), torch.zeros(1, 4, 16, 24))
    assert (size.native, size.requested, size.area, size.aspect) == ((8, 8), (16, 24), 6.0, 1.5)
    assert size.grid(96) == (8, 12) and size.grid(6) == (2, 3) and size.side == pytest.approx(6**0.5)
    assert not size.during(0.0, 1.0)
    with pytest.raises(BadInput, match="no size"):
        SizeContext.of(fixture("unet"), torch.zeros(3, 2))
