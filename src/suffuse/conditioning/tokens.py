"""Text to tokens: padded ids, what does not fit, which tokens a word became and what they weigh."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadInput
from .prompts import Weighted

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def texts(prompts: Sequence[Any]) -> list[str]:
    """The prompts as texts, without brackets and weights; None is the empty text."""
    for p in prompts:
        if p is not None and not isinstance(p, (str, Weighted)):
            raise BadInput(f"prompt={p!r}: this model takes text; give a string")
    return [p.plain if isinstance(p, Weighted) else p or "" for p in prompts]


def weights(tokenizer: Any, prompts: Sequence[Any], words: Sequence[str], length: int) -> Tensor | None:
    """(B, length) weight of every token of prompts padded to `length`, or None where no prompt is `Weighted`.

    Args:
        words: their texts as the encoder reads them, perhaps in lower case and without space around them.
    """
    if not any(isinstance(p, Weighted) for p in prompts):
        return None
    found = torch.ones(len(prompts), length)
    for row, p, text in zip(found, prompts, words, strict=True):
        if isinstance(p, Weighted):
            of = _of_characters(p, text)
            for k, (_, end) in _places(_padded(tokenizer, text, length)):
                row[k] = of[end - 1]
    return found


def _of_characters(prompt: Weighted, text: str) -> Sequence[float]:
    if text == prompt.plain:
        return prompt.weights
    # In lower case a character may become two.
    weights = [w for c, w in zip(prompt.plain, prompt.weights, strict=True) for _ in c.lower()]
    return weights[prompt.plain.lower().find(text) :]


def emphasised(states: Tensor, weights: Tensor | None, *, keep_mean: bool) -> Tensor:
    """States (B, length, width) times the weights of their tokens (B, length); a row without weights is untouched.

    Args:
        keep_mean: rescale each row to the mean that it had.
    """
    if weights is None:
        return states
    out = states * weights.to(states)[:, :, None]
    if keep_mean:
        out = out * (states.mean((1, 2), keepdim=True) / out.mean((1, 2), keepdim=True))
    return torch.where((weights == 1).all(1).to(states.device)[:, None, None], states, out)


def tokenize(tokenizer: Any, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, length), padded as the tokenizer pads, cut off at `length`."""
    out = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return out.input_ids, out.attention_mask


def overflow(tokenizer: Any, prompt: Any, length: int) -> str:
    """The end of a prompt that lies beyond `length` tokens, special tokens counted; "" if all fits."""
    (prompt,) = texts([prompt])
    whole = tokenizer(prompt, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    words = [o for o, special in zip(whole["offset_mapping"], whole["special_tokens_mask"], strict=True) if not special]
    room = length - (len(whole["input_ids"]) - len(words))
    return prompt[words[room][0] :].strip() if len(words) > room else ""


def spans(tokenizer: Any, prompt: str, length: int) -> Mapping[str, tuple[int, int]]:
    """Tokens of every word, (first, last + 1), of a prompt padded to `length`.

    A word is found in lower case; its second occurrence is "word#2", its third "word#3". "<bos>", "<eos>" and "<pad>"
    are the special tokens, where the tokenizer sets them. Words that were cut off are absent.
    """
    tokens = _places(_padded(tokenizer, prompt, length))
    found: dict[str, tuple[int, int]] = {}
    first = tokens[0][0] if tokens else min(1, int(tokenizer.bos_token_id is not None))
    after = tokens[-1][0] + 1 if tokens else first
    if first > 0:
        found["<bos>"] = (0, 1)
    if after < length:
        found["<eos>"] = (after, after + 1)
    if after + 1 < length:
        found["<pad>"] = (after + 1, length)
    counts: dict[str, int] = {}
    for word in WORD.finditer(prompt):
        covered = [k for k, (a, b) in tokens if a < word.end() and b > word.start()]
        if covered:
            name = word[0].lower()
            counts[name] = counts.get(name, 0) + 1
            found[name if counts[name] == 1 else f"{name}#{counts[name]}"] = (covered[0], covered[-1] + 1)
    return found


def _padded(tokenizer: Any, prompt: str, length: int) -> Any:
    return tokenizer(
        prompt, padding="max_length", max_length=length, truncation=True, return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )  # fmt: skip


def _places(out: Any) -> list[tuple[int, tuple[int, int]]]:
    """Number, and first and last + 1 character, of every token that stands for characters."""
    pairs = zip(out["offset_mapping"], out["special_tokens_mask"], strict=True)
    return [(k, o) for k, (o, special) in enumerate(pairs) if not special and o[1] > o[0]]
