"""Text encoders: the tokens of a word, prompts that are too long, equal prompts, the absence of a prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.conditioning import tokens
from suffuse.conditioning.clip import CLIPPair, CLIPText, PooledCLIP
from suffuse.conditioning.clip_vocabulary import clip_tokenizer as released
from suffuse.conditioning.sizes import Resolution, TimeIds
from suffuse.conditioning.t5 import AppendedT5, T5Text
from suffuse.core.conditioner import Conditioner
from suffuse.core.errors import BadInput
from suffuse.testing.pipelines import clip_encoder, t5_encoder
from suffuse.testing.tokenizers import clip_tokenizer, t5_tokenizer

CLIP, T5 = clip_tokenizer(), t5_tokenizer()


@pytest.fixture(scope="module")
def clip() -> CLIPText:
    return CLIPText(CLIP, clip_encoder(CLIP))


# tokens ---------------------------------------------------------------------------------------------------------------
def test_released_vocabulary() -> None:
    tokenizer = released()
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.pad_token_id == 49407 and released(pad="!").pad_token_id == 0


def test_spans_of_words() -> None:
    found = tokens.spans(CLIP, "a red circle, a Red zebra", 20)
    assert found == {
        "<bos>": (0, 1), "a": (1, 2), "red": (2, 3), "circle": (3, 4), "a#2": (5, 6), "red#2": (6, 7), "zebra": (7, 12),
        "<eos>": (12, 13), "<pad>": (13, 20),
    }  # fmt: skip


def test_spans_of_the_empty_prompt() -> None:
    assert tokens.spans(CLIP, "", 5) == {"<bos>": (0, 1), "<eos>": (1, 2), "<pad>": (2, 5)}
    assert tokens.spans(T5, "", 5) == {"<eos>": (0, 1), "<pad>": (1, 5)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "red", "zebra", "größe", "astronaut's", "blue,"]), min_size=1, max_size=5))
def test_spans_spell_their_words(words: list[str]) -> None:
    text = " ".join(words)
    for tokenizer in (CLIP, T5):
        ids = tokenizer(text, padding="max_length", max_length=77).input_ids
        found = tokens.spans(tokenizer, text, 77)
        for word in words:
            first, end = found[word.strip(",")]
            if tokenizer is CLIP:
                assert tokenizer.decode(ids[first:end]).replace(" ", "") == word.strip(",")
            assert end > first


def test_spans_and_cutting_off() -> None:
    found = tokens.spans(CLIP, "red circle zebra", 5)  # room for three tokens
    assert found == {"<bos>": (0, 1), "red": (1, 2), "circle": (2, 3), "zebra": (3, 4), "<eos>": (4, 5)}
    assert tokens.overflow(CLIP, "red circle zebra", 5) == "ebra"
    assert tokens.overflow(CLIP, "red circle zebra", 9) == ""
    assert tokens.overflow(CLIP, "red circle", 4) == ""
    assert tokens.overflow(CLIP, "red circle", 3) == "circle"


# the chain ------------------------------------------------------------------------------------------------------------
def test_equal_prompts_are_encoded_once(clip: CLIPText, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    forward = CLIPText.forward
    monkeypatch.setattr(
        CLIPText, "forward", lambda self, prompts, *rest: seen.append(prompts) or forward(self, prompts, *rest)
    )
    cond = Conditioner([clip]).encode(["red", "blue", "red"], ["no", None, "no"], others={"concept:red": "red"})
    assert seen == [["red", "blue", "no", None]]
    assert torch.equal(cond["text"][0], cond["text"][2])
    assert torch.equal(cond.alt["concept:red"]["text"][1], cond["text"][0])
    assert torch.equal(cond.alt["null"]["text"][0], cond.alt["null"]["text"][2])
    assert [list(s)[1] for s in cond.spans] == ["<eos>", "<eos>", "<eos>"]
    assert cond.spans[1]["blue"] == (1, 2) and "red" in cond.alt["concept:red"].spans[1]
    assert "red" in cond[torch.tensor([2])].spans[0]


def test_rows_are_those_of_the_prompts_alone(clip: CLIPText) -> None:
    both = Conditioner([clip]).encode(["red", "blue circle"])
    alone = Conditioner([clip]).encode(["blue circle"])
    assert torch.allclose(both["text"][1:], alone["text"], atol=1e-6)


def test_no_prompt_is_the_empty_text(clip: CLIPText) -> None:
    cond = Conditioner([clip]).encode(["red", ""])
    assert torch.equal(cond.alt["null"]["text"][0], cond["text"][1])


def test_clip_skip(clip: CLIPText) -> None:
    ids, _ = tokens.tokenize(CLIP, ["red"], 77)
    states = clip.encoder(ids, output_hidden_states=True).hidden_states
    inner = getattr(clip.encoder, "text_model", clip.encoder)
    text = Conditioner([clip.skipping(1)]).encode(["red"])["text"]
    assert torch.equal(text, inner.final_layer_norm(states[-2]))
    assert torch.allclose(Conditioner([clip]).encode(["red"])["text"], inner.final_layer_norm(states[-1]), atol=1e-6)
    with pytest.raises(BadInput, match="skip=3.*3 layers"):
        clip.skipping(3)


def test_absence_as_zeros() -> None:
    pair = CLIPPair([(CLIP, clip_encoder(CLIP)), (CLIP, clip_encoder(CLIP, 24, True))], (1,), zero=True)
    cond = Conditioner([pair, TimeIds()]).encode(["red"], [None], size=(64, 96))
    assert cond["text"].shape == (1, 77, 40) and cond["pooled"].shape == (1, 24)
    assert not cond.alt["null"]["text"].any() and not cond.alt["null"]["pooled"].any()
    assert cond["time_ids"].tolist() == [[64, 96, 0, 0, 64, 96]] == cond.alt["null"]["time_ids"].tolist()
    said = Conditioner([pair]).encode(["red"], [""]).alt["null"]
    assert said["text"].abs().sum() > 0 and said["pooled"].abs().sum() > 0


def test_t5_mask_and_resolution() -> None:
    piece = T5Text(T5, t5_encoder(T5), 12, True, ("text_encoder", "tokenizer"))
    cond = Conditioner([piece, Resolution()]).encode([" A RED circle "], size=(64, 32))
    assert cond["text_mask"].sum() == 4  # three words and the end
    assert cond["resolution"].tolist() == [[64, 32]] and cond["aspect_ratio"].tolist() == [[2.0]]
    assert torch.equal(cond["text"], Conditioner([piece]).encode(["a red circle"])["text"])
    assert cond.spans[0]["circle"] == (2, 3)


def test_t5_behind_clip() -> None:
    pair = CLIPPair([(CLIP, clip_encoder(CLIP, 16, True)), (CLIP, clip_encoder(CLIP, 24, True))], (0, 1))
    whole = Conditioner([pair, AppendedT5(T5, t5_encoder(T5, 48), 20, 48)]).encode(["red"])
    without = Conditioner([pair, AppendedT5(None, None, 20, 48)]).encode(["red"])
    assert whole["text"].shape == without["text"].shape == (1, 97, 48) and whole["pooled"].shape == (1, 40)
    assert torch.equal(whole["text"][:, :77], without["text"][:, :77])
    assert not without["text"][:, 77:].any() and whole["text"][:, 77:].any()
    assert whole.spans[0]["red"] == (1, 2)


# refusals -------------------------------------------------------------------------------------------------------------
def test_too_long(clip: CLIPText) -> None:
    chain = Conditioner([clip])
    long = "red " * 75 + "circle square"
    with pytest.raises(BadInput, match="prompt: too long, 'circle square' would be cut off.*truncate=True"):
        chain.encode([long])
    with pytest.raises(BadInput, match="too long"):
        chain.encode(["red"], [long])
    cut = chain.encode([long], truncate=True)
    assert torch.equal(cut["text"], chain.encode(["red " * 75])["text"])
    assert "circle" not in cut.spans[0]


def test_as_long_as_the_longest_encoder_reads() -> None:
    """Flux's CLIP sees the beginning of a prompt that its T5 reads whole."""
    chain = Conditioner([PooledCLIP(CLIP, clip_encoder(CLIP)), T5Text(T5, t5_encoder(T5), 120, False, ("a", "b"))])
    assert chain.encode(["red " * 100])["text"].shape == (1, 120, 32)
    with pytest.raises(BadInput, match="too long"):
        chain.encode(["red " * 120])


def test_wrong_kind_or_number(clip: CLIPText) -> None:
    with pytest.raises(BadInput, match="takes text"):
        Conditioner([clip]).encode([3])
    with pytest.raises(BadInput, match="1 for 2 prompts"):
        Conditioner([clip]).encode(["a", "b"], ["c"])
    with pytest.raises(BadInput, match="takes no prompt"):
        Conditioner([]).encode(["a"])
    assert Conditioner([]).encode([None]).alt["null"].entries == {}
