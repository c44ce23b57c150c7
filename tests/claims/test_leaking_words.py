"""Words that leak: what is masked and what is mixed."""

from __future__ import annotations

import torch

from suffuse.claims.leaking_words import Words
from suffuse.claims.microworld import model
from suffuse.core.cond import Cond

PROMPTS = ["a red circle", None]


def test_only_words_are_told_and_a_full_leak_makes_a_bag_of_them() -> None:
    read = model().conditioner.chain[0]
    told: Cond = read(PROMPTS, Cond(), (64, 64))
    words = sorted(k for word, span in told.spans[0].items() if word[0] != "<" for k in range(*span))

    plain, mixed = Words()(PROMPTS, told, (64, 64)), Words(1.0)(PROMPTS, told, (64, 64))

    assert torch.equal(plain["text"], told["text"])
    assert plain["text_mask"][0].nonzero()[:, 0].tolist() == [0, *words]
    assert plain["text_mask"][1].nonzero()[:, 0].tolist() == [0]
    torch.testing.assert_close(mixed["text"][0, words], told["text"][0, words].mean(0).expand(len(words), -1))
