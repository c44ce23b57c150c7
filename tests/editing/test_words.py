"""Alignment of the tokens of two prompts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suffuse.core.cond import Cond
from suffuse.core.errors import Refused
from suffuse.editing.words import alignment, labels, tokens_of

LENGTH = 12


def labelled(text: str, widths: dict[str, int] | None = None) -> tuple[str, ...]:
    """Labels of a prompt as a CLIP tokenizer would place it; a comma is a token that belongs to no word."""
    spans, at, counts = {"<bos>": (0, 1)}, 1, {}
    for word in text.replace(",", " ,").split():
        width = (widths or {}).get(word, 1)
        if word != ",":
            counts[word] = counts.get(word, 0) + 1
            spans[word if counts[word] == 1 else f"{word}#{counts[word]}"] = (at, at + width)
        at += width
    spans |= {"<eos>": (at, at + 1), "<pad>": (at + 1, LENGTH)}
    return labels(Cond(spans=[spans]), 0, LENGTH, "test")


def test_a_changed_word_is_new_and_all_others_correspond():
    share, taken = alignment(labelled("a red circle"), labelled("a blue circle"))
    assert taken.tolist() == [k != 2 for k in range(LENGTH)]
    assert share.argmax(0)[taken].tolist() == [k for k in range(LENGTH) if k != 2]


def test_a_swapped_word_takes_the_maps_of_the_one_in_its_place():
    source, target = labelled("a red circle", {"red": 2}), labelled("a turquoise circle", {"turquoise": 3})
    share, taken = alignment(source, target, swap=True)
    assert bool(taken[:10].all())
    assert share[2:4, 2:5].tolist() == [[pytest.approx(1 / 3)] * 3] * 2
    assert share[4].argmax() == 5  # circle goes where circle is


def test_swapping_tokens_one_for_one_keeps_them_apart():
    share, _ = alignment(labelled("a red circle", {"red": 2}), labelled("a teal circle", {"teal": 2}), swap=True)
    assert torch.equal(share, torch.eye(LENGTH))


def test_words_put_in_have_nothing_to_take():
    share, taken = alignment(labelled("a circle"), labelled("a large red circle"), swap=True)
    assert taken.tolist()[:7] == [True, True, False, False, True, True, True]
    assert share[2].argmax() == 4


def test_repeated_words_and_commas_correspond_in_their_order():
    share, taken = alignment(labelled("a red star, a blue ring"), labelled("a star, a blue ring"))
    assert share.argmax(0)[taken].tolist()[:9] == [0, 1, 3, 4, 5, 6, 7, 8, 9]


@given(st.lists(st.sampled_from(["red", "blue", "star", "a"]), max_size=6), st.booleans())
def test_a_prompt_corresponds_to_itself(words, swap):
    names = labelled(" ".join(words))
    share, taken = alignment(names, names, swap)
    assert torch.equal(share, torch.eye(LENGTH)) and bool(taken.all())


@given(*[st.lists(st.sampled_from(["red", "blue", "star", "a"]), max_size=6)] * 2)
def test_no_attention_is_lost_or_made_where_words_are_swapped(source, target):
    share, _ = alignment(labelled(" ".join(source)), labelled(" ".join(target)), swap=True)
    assert bool(((share.sum(1) - 1).abs() < 1e-6).logical_or(share.sum(1) == 0).all())


def test_every_occurrence_of_a_word_is_marked():
    spans = {"<bos>": (0, 1), "red": (1, 2), "star": (2, 4), "red#2": (4, 5)}
    assert tokens_of(["red"], spans, 6).tolist() == [0, 1, 0, 0, 1, 0]


def test_a_condition_without_words_is_refused():
    with pytest.raises(Refused, match=r"cond\.spans does not say"):
        labels(Cond(), 0, LENGTH, "PromptToPrompt()")
