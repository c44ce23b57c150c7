"""Weighted, blended and changing prompts, through every text conditioner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.conditioning import Alternate, Blend, Switch, Weighted, tokens
from suffuse.conditioning.classes import Classes
from suffuse.conditioning.clip import CLIPPair, CLIPText, PooledCLIP
from suffuse.conditioning.prompts import read_prompt
from suffuse.conditioning.sizes import TimeIds
from suffuse.conditioning.t5 import AppendedT5, T5Text
from suffuse.core.conditioner import Conditioner
from suffuse.core.errors import BadInput
from suffuse.core.expression import parse, unparse
from suffuse.core.grid import Grid
from suffuse.testing.pipelines import clip_encoder, t5_encoder
from suffuse.testing.tokenizers import clip_tokenizer, t5_tokenizer

CLIP, T5 = clip_tokenizer(), t5_tokenizer()
GRID = Grid(torch.linspace(1, 0, 5, dtype=torch.float64))


@pytest.fixture(scope="module")
def chain() -> Conditioner:
    return Conditioner([CLIPText(CLIP, clip_encoder(CLIP))])


# weights --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a red circle", [("a red circle", 1.0)]),
        ("a (red) circle", [("a ", 1.0), ("red", 1.1), (" circle", 1.0)]),
        ("a [red] circle", [("a ", 1.0), ("red", 1 / 1.1), (" circle", 1.0)]),
        ("a (red:1.3) circle", [("a ", 1.0), ("red", 1.3), (" circle", 1.0)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(a (red:1.5) circle:0.5)", [("a ", 0.5), ("red", 0.75), (" circle", 0.5)]),
        ("([red]: -2)", [("red", -2 / 1.1)]),
        (r"a \(red\) \[circle\] \\", [("a (red) [circle] \\", 1.0)]),
        ("at 10:30, red: a square", [("at 10:30, red: a square", 1.0)]),
        ("(red: a)", [("red: a", 1.1)]),
        (r"\[red:blue:0.5\]", [("[red:blue:0.5]", 1.0)]),
        (r"a\b", [(r"a\b", 1.0)]),
        ("", []),
    ],
)
def test_brackets(text: str, pieces: list[tuple[str, float]]) -> None:
    prompt = Weighted(text)
    assert prompt.plain == "".join(piece for piece, _ in pieces)
    assert prompt.weights == pytest.approx([w for piece, w in pieces for _ in piece], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab ()[]\\:1.")))
def test_an_escaped_text_is_itself(text: str) -> None:
    escaped = "".join(f"\\{c}" if c in "()[]\\" else c for c in text)
    assert Weighted(escaped).plain == text and set(Weighted(escaped).weights) <= {1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a (red", r"'\(' at character 2 is not closed"),
        ("a red) b", r"'\)' at character 5 closes nothing"),
        ("(a]", r"'\]' at character 2 closes nothing"),
        ("[red:blue:0.5]", "Switch or Alternate"),
        ("a [:blue:0.5]", "Switch or Alternate"),
        ("[cow|horse]", "Switch or Alternate"),
    ],
)
def test_refused_brackets(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Weighted(text)


def test_clips_states_keep_their_mean(chain: Conditioner) -> None:
    """As the program's own sums: multiply the states of the tokens, then restore the mean of the prompt."""
    prompts = [Weighted("a (red:1.5) circle [square]"), "a red circle square"]
    both = chain.encode(prompts)
    plain = chain.encode(["a red circle square"])
    assert torch.equal(both["text"][1], plain["text"][0])
    assert both.spans[0] == plain.spans[0]
    w = torch.ones(77)
    w[2], w[4] = 1.5, 1 / 1.1
    scaled = plain["text"][0] * w[:, None]
    torch.testing.assert_close(both["text"][0], scaled * (plain["text"].mean() / scaled.mean()))
    assert both["text"][0].mean().item() == pytest.approx(plain["text"].mean().item(), rel=1e-4)
    assert torch.equal(chain.encode([Weighted("a red circle square")])["text"], plain["text"])


def test_a_word_of_several_tokens_weighs_as_a_whole() -> None:
    found = tokens.weights(CLIP, [Weighted("a (zebra:2) (circle)"), "red"], ["a zebra circle", "red"], 12)
    assert found is not None
    assert found.tolist() == [[1, 1, 2, 2, 2, 2, 2, *[pytest.approx(1.1)], 1, 1, 1, 1], [1] * 12]
    cut = tokens.weights(CLIP, [Weighted("a (zebra:2)")], ["a zebra"], 5)
    assert cut is not None and cut.tolist() == [[1, 1, 2, 2, 1]]


def test_weights_in_every_text_encoder() -> None:
    pair = CLIPPair([(CLIP, clip_encoder(CLIP, 16, True)), (CLIP, clip_encoder(CLIP, 24, True))], (0, 1))
    behind = Conditioner([pair, AppendedT5(T5, t5_encoder(T5, 48), 20, 48)])
    flux = Conditioner([PooledCLIP(CLIP, clip_encoder(CLIP)), T5Text(T5, t5_encoder(T5), 20, False, ("a", "b"))])
    for conditioner, places in ((behind, (2, 78)), (flux, (1,))):
        plain, said = (conditioner.encode([p]) for p in ("a red circle", Weighted("a (red:1.5) circle")))
        w = torch.ones(plain["text"].shape[1])
        w[list(places)] = 1.5
        torch.testing.assert_close(said["text"], plain["text"] * w[:, None])
        assert torch.equal(said["pooled"], plain["pooled"]) and said.spans == plain.spans


def test_weights_of_a_text_that_is_put_in_lower_case() -> None:
    piece = T5Text(T5, t5_encoder(T5), 12, True, ("a", "b"))
    plain, said = (Conditioner([piece]).encode([p]) for p in ("a red circle", Weighted("  ( A (RED:1.5)) circle ")))
    w = torch.ones(12)
    w[0], w[1] = 1.1, 1.65
    torch.testing.assert_close(said["text"], plain["text"] * w[:, None])
    assert torch.equal(said["text_mask"], plain["text_mask"]) and said.spans == plain.spans


def test_too_long_counts_words_alone(chain: Conditioner) -> None:
    assert chain.encode([Weighted("(red:1.25) " * 75)])["text"].shape == (1, 77, 16)
    with pytest.raises(BadInput, match="too long, 'circle' would be cut off"):
        chain.encode([Weighted("red " * 75 + "(circle)")])


# averages and changes -------------------------------------------------------------------------------------------------
def test_blends(chain: Conditioner) -> None:
    a, b, c = (chain.encode([p])["text"] for p in ("a red circle", "a blue circle", Weighted("(blue)")))
    blended = chain.encode([Blend(("a red circle", "a blue circle"), (3, 1)), "a red circle"], ["", Blend(("a", "b"))])
    torch.testing.assert_close(blended["text"][:1], 0.75 * a + 0.25 * b)
    assert torch.equal(blended["text"][1:], a)
    assert blended.spans[0]["circle"] == (3, 4) and "red" not in blended.spans[0] and "red" in blended.spans[1]
    assert not torch.equal(*blended.alt["null"]["text"])
    nested = chain.encode([Blend((Blend(("a red circle", "a blue circle")), Weighted("(blue)")), (0.5, 0.5))])
    torch.testing.assert_close(nested["text"], 0.25 * a + 0.25 * b + 0.5 * c)


def test_a_blend_averages_pooled_states_and_leaves_sizes_alone() -> None:
    pair = CLIPPair([(CLIP, clip_encoder(CLIP)), (CLIP, clip_encoder(CLIP, 24, True))], (1,), zero=True)
    chain = Conditioner([pair, TimeIds()])
    cond = chain.encode(["red", "blue", Blend(("red", "blue"))], size=(64, 96))
    torch.testing.assert_close(cond["pooled"][2], cond["pooled"][:2].mean(0))
    assert torch.equal(cond["time_ids"][2], cond["time_ids"][0])


def test_changing_prompts(chain: Conditioner) -> None:
    grid = {"grid": GRID}
    a, b, c = (chain.encode([p])["text"][0] for p in ("red", "blue", "a"))
    prompts = [Switch("red", "blue", 0.5), Alternate(("red", "blue", "a")), "a"]
    cond = chain.encode(prompts, [None, Switch("red", Switch("blue", "a", 0.75), 0.5), None], **grid)
    assert cond.rows == 3 and cond[torch.tensor([2, 0])].rows == 2
    for t, rows, null in (
        (1.0, (a, a, c), a),
        (0.75, (a, b, c), a),
        (0.5, (b, c, c), b),
        (0.25, (b, a, c), c),
        (0.1, (b, a, c), c),
    ):
        now = cond.at(t)
        assert torch.equal(now["text"], torch.stack(rows)) and torch.equal(now.alt["null"]["text"][1], null)
    with pytest.raises(BadInput, match="changes over the run"):
        chain.encode(prompts)


def test_classes_switch_and_do_not_blend() -> None:
    chain = Conditioner([Classes(10, {"cat": 3}, 10)])
    assert chain.encode([Switch("cat", 4)], grid=GRID).at(0.9)["label"].tolist() == [3]
    with pytest.raises(BadInput, match="no average"):
        chain.encode([Blend((3, 4))])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blend(("a",)), "two prompts or more"),
        (lambda: Blend(["a", "b"]), "two prompts or more"),
        (lambda: Blend(("a", None)), "None is no prompt"),
        (lambda: Blend(("a", "b"), (1,)), "a tuple of 2 numbers"),
        (lambda: Blend(("a", "b"), (1, -1)), "sum is 0"),
        (lambda: Switch("a", "b", 1.5), "0 to 1"),
        (lambda: Alternate("ab"), "two prompts or more"),
        (lambda: Weighted(3), "must be a text"),
    ],
)
def test_refused_values(make: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make()


# as text --------------------------------------------------------------------------------------------------------------
def test_expressions() -> None:
    value = Switch(Weighted("a (red:1.3) circle"), Blend(("a", "b"), (1.0, 2.0)), 0.25)
    assert parse(unparse(value)) == value == read_prompt(unparse(value))
    for text in ("a (red:1.3) circle", "Weighted words (of mine)", "DDIM(eta=0.5)", "Blends('a')", "circle(s)"):
        assert read_prompt(text) is text
    with pytest.raises(BadInput, match="Blend"):
        read_prompt("Blend('a')")
