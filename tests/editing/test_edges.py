"""Canny's edges: thin, closed around objects, none where nothing changes, weak ones only beside strong ones."""

from __future__ import annotations

import torch

from suffuse.editing import canny


def test_a_square_has_one_thin_line_around_it():
    pixels = torch.full((1, 3, 16, 16), -1.0)
    pixels[..., 4:12, 4:12] = 1.0
    found = canny(pixels)
    assert found.shape == (1, 3, 16, 16) and set(found.unique().tolist()) == {0.0, 1.0}
    row = found[0, 0, 8]
    assert row.sum() == 2 and row.nonzero()[0] in (3, 4) and row.nonzero()[1] in (11, 12)
    assert torch.equal(found[:, 0], found[:, 2]) and not canny(torch.zeros(2, 3, 8, 8)).any()


def test_weak_edges_count_where_they_hang_on_strong_ones():
    pixels = torch.full((1, 3, 16, 16), -1.0)
    pixels[..., :, 8:] = -0.7  # 38 grey levels: |d_x| = 153
    assert not canny(pixels).any()
    pixels[..., :3, 8:] = 1.0
    assert canny(pixels)[0, 0, :, 7:9].any(1).all()


def test_a_batch_is_its_pictures():
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert torch.equal(canny(pixels), torch.cat([canny(pixels[:1]), canny(pixels[1:])]))
