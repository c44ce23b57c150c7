"""Text to tokens: padded ids, what does not fit, and which tokens a word became."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..core.errors import BadInput

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def texts(prompts: Sequence[Any]) -> list[str]:
    """The prompts as texts; None is the empty text."""
    for p in prompts:
        if p is not None and not isinstance(p, str):
            raise BadInput(f"prompt={p!r}: this model takes text; give a string")
    return [p or "" for p in prompts]


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
    out = tokenizer(
        prompt, padding="max_length", max_length=length, truncation=True, return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )  # fmt: skip
    tokens = [
        (k, o)
        for k, (o, s) in enumerate(zip(out["offset_mapping"], out["special_tokens_mask"], strict=True))
        if not s and o[1] > o[0]
    ]
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
