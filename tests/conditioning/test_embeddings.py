"""Embeddings as prompts: what the network is told, to the number."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from suffuse.conditioning import EmbeddingGrid, Embeddings, embeddings_of
from suffuse.core.conditioner import Conditioner
from suffuse.core.errors import BadInput

VALUES = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
PIECE = Conditioner([Embeddings(4)])


def test_a_grid_is_told_at_length_one_and_no_prompt_is_zeros():
    cond = PIECE.encode([EmbeddingGrid(VALUES), EmbeddingGrid(2 * VALUES)])
    assert cond["text"].shape == (2, 2, 3, 4)
    torch.testing.assert_close(cond["text"][1], F.normalize(VALUES, dim=-1))
    assert torch.equal(cond.alt["null"]["text"], torch.zeros(2, 2, 3, 4))


def test_one_part_is_one_token():
    cond = PIECE.encode([EmbeddingGrid(VALUES[:1, :1])])
    torch.testing.assert_close(cond["text"], F.normalize(VALUES[:1, :1], dim=-1)[0][None])
    assert cond.alt["null"]["text"].shape == PIECE.encode([None])["text"].shape == (1, 1, 4)


def test_parts_are_embedded_where_they_lie():
    picture = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    found = embeddings_of(picture, lambda parts: parts.mean((2, 3)), 2)
    assert found.shape == (2, 2, 3, 3)
    torch.testing.assert_close(found[1, 1, 2], picture[1, :, 2:4, 4:6].mean((1, 2)))


@pytest.mark.parametrize("prompts", [["a"], [EmbeddingGrid(VALUES[..., :3])],
                                     [EmbeddingGrid(VALUES), EmbeddingGrid(VALUES[:1])]])  # fmt: skip
def test_other_prompts_are_refused(prompts):
    with pytest.raises(BadInput, match="prompt"):
        PIECE.encode(prompts)
    with pytest.raises(BadInput, match="values"):
        EmbeddingGrid(VALUES[0])
    with pytest.raises(BadInput, match="side=4"):
        embeddings_of(torch.zeros(1, 3, 4, 6), torch.sum, 4)
